package lint

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// The Compose file is valid by Compose's own schema and makes three nodes, each
// of which sees its own certificate only, and forms them one after the other.
func TestCompose(t *testing.T) {
	dir, err := filepath.Abs("../compose")
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: dir, ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml")}}, Environment: types.Mapping{},
	}, func(o *loader.Options) { o.Profiles = []string{"*"} })
	if err != nil {
		t.Fatal(err)
	}
	zones, founders := map[string]bool{}, 0
	for _, name := range []string{"n1", "n2", "n3"} {
		s, err := project.GetService(name)
		if err != nil {
			t.Fatal(err)
		}
		checkArguments(t, name, s.Command)
		if name != flagValue(s.Command, "--node=") {
			t.Errorf("service %s is node %s", name, flagValue(s.Command, "--node="))
		}
		zones[flagValue(s.Command, "--zone=")] = true
		if flagValue(s.Command, "--join=") == "" {
			founders++
		}
		for _, peer := range strings.Split(flagValue(s.Command, "--join="), ",") {
			host, _, _ := strings.Cut(peer, ":")
			if _, err := project.GetService(host); peer != "" && (err != nil || host == name) {
				t.Errorf("%s joins %s", name, peer)
			}
		}
		if s.HealthCheck == nil || s.HealthCheck.Test[0] != "CMD" {
			t.Errorf("%s: health check %v", name, s.HealthCheck)
		} else {
			checkArguments(t, name, s.HealthCheck.Test[2:])
		}
		if s.StopGracePeriod == nil || s.StopGracePeriod.String() < "2" || s.Ulimits["nofile"] == nil {
			t.Errorf("%s: stops within %v, limits %v", name, s.StopGracePeriod, s.Ulimits)
		}
		for _, v := range s.Volumes {
			if v.Source == "certs" && (!v.ReadOnly || v.Volume == nil || v.Volume.Subpath != name) {
				t.Errorf("%s sees more of the certificates than its own: %+v", name, v)
			}
		}
	}
	if len(zones) != 3 || founders != 1 {
		t.Errorf("zones %v, %d nodes that found a cluster", zones, founders)
	}
	for name, s := range project.Services {
		if !s.ReadOnly || s.User != "65532:65532" || !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: writes where it likes, or may more than it needs", name)
		}
		checkArguments(t, name, append(slices.Clone(s.Entrypoint)[min(1, len(s.Entrypoint)):], s.Command...))
	}
	for name, wants := range map[string]map[string]string{
		"n1":     {"certs": types.ServiceConditionCompletedSuccessfully},
		"add-n2": {"n1": types.ServiceConditionHealthy, "n2": types.ServiceConditionHealthy},
		"add-n3": {"add-n2": types.ServiceConditionCompletedSuccessfully, "n3": types.ServiceConditionHealthy},
	} {
		s, err := project.GetService(name)
		if err != nil {
			t.Fatal(err)
		}
		for on, condition := range wants {
			if s.DependsOn[on].Condition != condition {
				t.Errorf("%s waits for %s until %q, want %q", name, on, s.DependsOn[on].Condition, condition)
			}
		}
	}
}

// flagValue is what follows a flag in a command.
func flagValue(command []string, flag string) string {
	for _, a := range command {
		if v, ok := strings.CutPrefix(a, flag); ok {
			return v
		}
	}
	return ""
}
