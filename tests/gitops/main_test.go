package main

import (
	"encoding/json"
	"testing"
)

// Goal: each state of a KvCluster has the health that its users expect, by kstatus, in Flux and in Argo CD. Method: statuses with the
// conditions that decide, of which the unit tests of the operator show when it reports them.
func TestHealth(t *testing.T) {
	settled := []string{"Ready"}
	for _, one := range []struct {
		name     string
		observed int
		phase    string
		isTrue   []string
		kstatus  string
		flux     string
		argocd   string
		message  string
	}{
		{"settled", 4, "Ready", settled, "Current", "Current", "Healthy", "4/5 followers have all data"},
		{"a spec that the operator has not seen", 3, "Ready", settled, "InProgress", "InProgress", "Progressing", "the operator has not seen this spec yet"},
		{"no operator yet", -1, "Creating", nil, "InProgress", "InProgress", "Progressing", "the operator has not seen this spec yet"},
		{"new", 4, "Creating", []string{"Reconciling", "Progressing"}, "InProgress", "InProgress", "Progressing", "why Reconciling"},
		{"a rollout", 4, "Updating", []string{"Ready", "Reconciling", "Progressing"}, "InProgress", "InProgress", "Progressing", "why Reconciling"},
		{"a rollout that moves the leader", 4, "Unavailable", []string{"Reconciling", "Progressing"}, "InProgress", "InProgress", "Progressing", "why Reconciling"},
		{"a follower is missing", 4, "Degraded", []string{"Ready", "Degraded", "Reconciling"}, "InProgress", "InProgress", "Progressing", "why Reconciling"},
		{"writes have stopped", 4, "Unavailable", []string{"Degraded", "Reconciling"}, "InProgress", "InProgress", "Degraded", "the headline"},
		{"a name that is taken", 4, "Ready", []string{"Ready", "Stalled"}, "Failed", "Failed", "Degraded", "why Stalled"},
		{"invalid", 4, "Invalid", []string{"Stalled"}, "Failed", "Failed", "Degraded", "why Stalled"},
		{"paused", 4, "Ready", []string{"Ready", "Paused"}, "Current", "Current", "Suspended", "the headline"},
		{"a change of a paused cluster", 4, "Ready", []string{"Ready", "Paused", "Stalled"}, "Failed", "Failed", "Suspended", "the headline"},
		{"hibernated", 4, "Hibernated", []string{"Hibernated"}, "InProgress", "Current", "Suspended", "why Hibernated"},
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
			found, err := judge("../..", object)
			if err != nil {
				t.Fatal(err)
			}
			if expected := (Judgement{one.kstatus, one.flux, one.argocd, one.message}); found != expected {
				t.Errorf("%+v, not %+v", found, expected)
			}
		})
	}
}
