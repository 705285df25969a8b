package lint

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const units = "../systemd"

// exposure is the most that systemd may find open in a unit, of 100: a server
// needs the network, and /proc/stat tells when it started.
const exposure = "12"

var execStart = regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/bongsu (.*)$`)

// The units start the program with flags that it has. Where systemd is
// installed it also verifies them and says how much they leave open.
func TestUnits(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"bongsu.service", "bongsu@.service"} {
		text, err := os.ReadFile(filepath.Join(units, name))
		if err != nil {
			t.Fatal(err)
		}
		m := execStart.FindStringSubmatch(string(text))
		if m == nil {
			t.Fatalf("%s starts something else", name)
		}
		// --config stands before the command; the command is its fourth word.
		words := strings.Fields(m[1])
		checkArguments(t, name, words[2:])
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Replace(string(text), "ExecStart=/usr/local/bin/bongsu", "ExecStart="+bongsu, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("systemd", func(t *testing.T) {
		analyze, err := exec.LookPath("systemd-analyze")
		if err != nil {
			t.Skip("systemd is not installed here; CI's image has it")
		}
		for _, name := range []string{"bongsu.service", "bongsu@n1.service"} {
			// An instance is verified as a file of its own.
			file := filepath.Join(dir, name)
			if name == "bongsu@n1.service" {
				template, err := os.ReadFile(filepath.Join(dir, "bongsu@.service"))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, template, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", file).CombinedOutput()
			if err != nil || strings.Contains(string(out), name) {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
			out, err = exec.Command(analyze, "security", "--offline=true", "--no-pager", "--threshold="+exposure, file).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
	})
}

// The two units are one, but for the instance's name.
func TestUnitsAreAlike(t *testing.T) {
	one, err := os.ReadFile(filepath.Join(units, "bongsu.service"))
	if err != nil {
		t.Fatal(err)
	}
	many, err := os.ReadFile(filepath.Join(units, "bongsu@.service"))
	if err != nil {
		t.Fatal(err)
	}
	back := strings.NewReplacer(", node %i", "", "/etc/bongsu/%i.toml serve --node %i", "/etc/bongsu/bongsu.toml serve", "StateDirectory=bongsu/%i", "StateDirectory=bongsu")
	if a, b := settingsOf(string(one)), settingsOf(back.Replace(string(many))); a != b {
		t.Errorf("they differ:\n%s\n---\n%s", a, b)
	}
}

// settingsOf leaves comments out.
func settingsOf(unit string) string {
	var out []string
	for line := range strings.Lines(unit) {
		if !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// The example settings are ones that the program takes.
func TestSettings(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(units, "bongsu.toml"))
	if err != nil {
		t.Fatal(err)
	}
	commented := regexp.MustCompile(`(?m)^# ([a-z_]+ = )`)
	toml := commented.ReplaceAllString(string(text), "$1")
	toml = strings.Replace(toml, `certs = "/etc/bongsu/certs"`, `certs = "`+filepath.Join(certs, "n2")+`"`, 1)
	checkSettings(t, "bongsu.toml", toml)
}

// checkSettings starts the program with settings, and an address that is none:
// it gets that far only if it knows every key.
func checkSettings(t *testing.T, where, toml string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "settings.toml")
	if err := os.WriteFile(file, []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bongsu, "--config", file, "serve", "--data", t.TempDir(), "--listen", "nowhere")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not HOST:PORT") {
		t.Errorf("%s: %v\n%s", where, err, out)
	}
}
