package main

import (
	"encoding/json"
	"os"
	"testing"
)

// Goal: each state of a KvCluster has the health that its users expect, by kstatus and in Argo CD. Method: statuses with the
// conditions that decide, of which the unit tests of the operator show when it reports them.
func TestHealth(t *testing.T) {
	script, err := os.ReadFile("../../deploy/argocd-health.lua")
	if err != nil {
		t.Fatal(err)
	}
	settled := []string{"Ready"}
	for _, one := range []struct {
		name     string
		observed int
		phase    string
		isTrue   []string
		kstatus  string
		argocd   string
		message  string
	}{
		{"settled", 4, "Ready", settled, "Current", "Healthy", "4/5 followers have all data"},
		{"a spec that the operator has not seen", 3, "Ready", settled, "InProgress", "Progressing", "the operator has not seen this spec yet"},
		{"no operator yet", -1, "Creating", nil, "InProgress", "Progressing", "the operator has not seen this spec yet"},
		{"new", 4, "Creating", []string{"Reconciling", "Progressing"}, "InProgress", "Progressing", "why Reconciling"},
		{"a rollout", 4, "Updating", []string{"Ready", "Reconciling", "Progressing"}, "InProgress", "Progressing", "why Reconciling"},
		{"a rollout that moves the leader", 4, "Unavailable", []string{"Reconciling", "Progressing"}, "InProgress", "Progressing", "why Reconciling"},
		{"a follower is missing", 4, "Degraded", []string{"Ready", "Degraded", "Reconciling"}, "InProgress", "Progressing", "why Reconciling"},
		{"writes have stopped", 4, "Unavailable", []string{"Degraded", "Reconciling"}, "InProgress", "Degraded", "the headline"},
		{"a name that is taken", 4, "Ready", []string{"Ready", "Stalled"}, "Failed", "Degraded", "why Stalled"},
		{"invalid", 4, "Invalid", []string{"Stalled"}, "Failed", "Degraded", "why Stalled"},
		{"paused", 4, "Ready", []string{"Ready", "Paused"}, "Current", "Suspended", "the headline"},
		{"a change of a paused cluster", 4, "Ready", []string{"Ready", "Paused", "Stalled"}, "Failed", "Suspended", "the headline"},
		{"hibernated", 4, "Hibernated", []string{"Hibernated"}, "InProgress", "Suspended", "why Hibernated"},
	} {
		t.Run(one.name, func(t *testing.T) {
			conditions := []map[string]any{}
			for _, kind := range []string{"Ready", "Progressing", "Degraded", "Reconciling", "Stalled", "Paused", "Hibernated"} {
				state := "False"
				for _, name := range one.isTrue {
					if name == kind {
						state = "True"
					}
				}
				conditions = append(conditions, map[string]any{"type": kind, "status": state, "reason": "X", "message": "why " + kind})
			}
			object, err := json.Marshal(map[string]any{
				"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster",
				"metadata": map[string]any{"name": "demo", "generation": 4},
				"status": map[string]any{"observedGeneration": one.observed, "phase": one.phase, "message": "the headline",
					"followers": "4/5", "conditions": conditions},
			})
			if err != nil {
				t.Fatal(err)
			}
			found, err := judge(string(script), object)
			if err != nil {
				t.Fatal(err)
			}
			if expected := (Judgement{one.kstatus, one.argocd, one.message}); found != expected {
				t.Errorf("%+v, not %+v", found, expected)
			}
		})
	}
}
