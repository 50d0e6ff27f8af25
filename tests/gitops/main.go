// Judges objects as GitOps programs do: by kstatus, which Flux asks, by the expressions for Flux, and by the health check for
// Argo CD, in the interpreter that Argo CD has.
//
//	gitops ROOT <OBJECT    prints {"kstatus":"Current","flux":"Current","argocd":"Healthy","message":"…"}
//
// ROOT is the directory of the repository, which has the expressions and the check in deploy.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// Judgement is what they say of an object.
type Judgement struct {
	Kstatus string `json:"kstatus"`
	Flux    string `json:"flux"`
	ArgoCD  string `json:"argocd"`
	Message string `json:"message"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gitops:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: gitops ROOT <OBJECT")
	}
	object, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	judgement, err := judge(os.Args[1], object)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(judgement)
}

func judge(root string, object []byte) (Judgement, error) {
	var parsed unstructured.Unstructured
	if err := parsed.UnmarshalJSON(object); err != nil {
		return Judgement{}, fmt.Errorf("failed to read the object: %w", err)
	}
	result, err := status.Compute(&parsed)
	if err != nil {
		return Judgement{}, fmt.Errorf("failed to compute kstatus: %w", err)
	}
	expressed, err := flux(filepath.Join(root, "deploy/flux-health.yaml"), &parsed)
	if err != nil {
		return Judgement{}, err
	}
	script, err := os.ReadFile(filepath.Join(root, "deploy/argocd-health.lua"))
	if err != nil {
		return Judgement{}, err
	}
	health, message, err := argocd(string(script), parsed.Object)
	return Judgement{Kstatus: result.Status.String(), Flux: expressed, ArgoCD: health, Message: message}, err
}

// argocd runs a health check as Argo CD does: the object is the global obj, the script returns a table, and of Lua's libraries
// only these are there.
func argocd(script string, object map[string]any) (string, string, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return "", "", fmt.Errorf("failed to open Lua's library %s: %w", name, err)
		}
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		return "", "", fmt.Errorf("failed to run the health check: %w", err)
	}
	returned, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the health check returned %s, not a table", state.Get(-1).Type())
	}
	return returned.RawGetString("status").String(), returned.RawGetString("message").String(), nil
}

func value(state *lua.LState, from any) lua.LValue {
	switch from := from.(type) {
	case bool:
		return lua.LBool(from)
	case string:
		return lua.LString(from)
	case int64:
		return lua.LNumber(from)
	case float64:
		return lua.LNumber(from)
	case []any:
		table := state.NewTable()
		for _, item := range from {
			table.Append(value(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, item := range from {
			table.RawSetString(key, value(state, item))
		}
		return table
	}
	return lua.LNil
}
