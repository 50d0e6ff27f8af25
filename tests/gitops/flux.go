package main

import (
	"fmt"
	"os"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

// flux evaluates the health expressions of a file as Flux does (RFC 0009): an object with the status of another generation is in
// progress; then the first expression that is true decides, and without one the object is in progress.
func flux(path string, object *unstructured.Unstructured) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var spec struct {
		HealthCheckExprs []struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			InProgress string `json:"inProgress"`
			Failed     string `json:"failed"`
			Current    string `json:"current"`
		} `json:"healthCheckExprs"`
	}
	if err := yaml.UnmarshalStrict(text, &spec, yaml.DisallowUnknownFields); err != nil {
		return "", fmt.Errorf("failed to read %s: %w", path, err)
	}
	observed, found, err := unstructured.NestedInt64(object.Object, "status", "observedGeneration")
	if err != nil {
		return "", err
	}
	if found && observed != object.GetGeneration() {
		return status.InProgressStatus.String(), nil
	}
	for _, one := range spec.HealthCheckExprs {
		if one.APIVersion != object.GetAPIVersion() || one.Kind != object.GetKind() {
			continue
		}
		for _, rule := range []struct {
			expression string
			status     status.Status
		}{
			{one.InProgress, status.InProgressStatus}, {one.Failed, status.FailedStatus}, {one.Current, status.CurrentStatus},
		} {
			holds, err := evaluate(rule.expression, object.Object)
			if err != nil {
				return "", err
			}
			if holds {
				return rule.status.String(), nil
			}
		}
	}
	return status.InProgressStatus.String(), nil
}

// evaluate says whether an expression is true of an object. One that is not given is not.
func evaluate(expression string, object map[string]any) (bool, error) {
	if expression == "" {
		return false, nil
	}
	options := []cel.EnvOption{ext.Strings()}
	for field := range object {
		options = append(options, cel.Variable(field, cel.DynType))
	}
	environment, err := cel.NewEnv(options...)
	if err != nil {
		return false, err
	}
	compiled, issues := environment.Compile(expression)
	if issues.Err() != nil {
		return false, fmt.Errorf("failed to compile %s: %w", expression, issues.Err())
	}
	program, err := environment.Program(compiled)
	if err != nil {
		return false, err
	}
	result, _, err := program.Eval(object)
	if err != nil {
		return false, fmt.Errorf("failed to evaluate %s: %w", expression, err)
	}
	holds, ok := result.Value().(bool)
	if !ok {
		return false, fmt.Errorf("%s is a %s, not true or false", expression, result.Type())
	}
	return holds, nil
}
