package house

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/bongsu-im/bongsu"

// may says what each package (or folder, with /...) imports of ours. The first
// row that fits a package decides; what is not listed is forbidden. Tests of a
// package may import more only where mayInTests says so.
var may = []struct {
	pkg  string
	from []string
}{
	{"gen/...", []string{"gen/..."}},
	{"internal/...", []string{"internal/..."}},
	{"overload", nil},
	{"web", nil},
	{"journal", []string{"gen/..."}},
	{"backup", []string{"gen/...", "journal", "internal/..."}},
	{"journal/...", []string{"journal", "journal/highwater", "journal/raft/...", "gen/...", "internal/..."}},
	{"chat", []string{"gen/...", "internal/id"}},
	{"view", []string{"gen/...", "chat", "internal/..."}},
	{"shard", []string{"gen/...", "journal", "chat", "view", "overload", "internal/..."}},
	{"gateway/...", []string{"gen/...", "overload", "gateway/...", "internal/..."}},
	{"gateway", []string{"gen/...", "overload", "gateway/...", "internal/..."}},
	{"client/...", []string{"gen/...", "client/...", "internal/..."}},
	{"client", []string{"gen/...", "internal/..."}},
	{"services/...", []string{"gen/...", "overload", "client", "internal/..."}},
	{"node/peer", []string{"gen/...", "internal/mutant"}},
	{"node/placement", nil},
	{"node/roster", []string{"gen/...", "internal/..."}},
	{"node", []string{"node/...", "backup", "gateway/...", "gateway", "shard", "view", "journal", "journal/...", "services/...", "web", "overload", "gen/...", "chat", "internal/..."}},
	{"proof/oracle", []string{"gen/..."}},
	// The simulation builds nodes of the parts that node.OpenPlane takes, on
	// disks and a network in memory, and compares what their views hold.
	{"proof/sim", []string{"gen/...", "node", "node/peer", "journal", "journal/raft", "proof/oracle", "internal/..."}},
	{"proof/...", []string{"gen/...", "client", "client/...", "node", "proof/...", "internal/..."}},
	{"cmd/bongsu", []string{"node", "backup", "proof/...", "client", "gen/...", "internal/..."}},
}

// mayInTests widens the rows for _test.go files only.
var mayInTests = map[string][]string{
	"journal":             {"journal/..."},
	"journal/memory":      {"journal/..."},
	"journal/raft":        {"journal/..."},
	"journal/postgres":    {"journal/..."},
	"shard":               {"journal/..."},
	"backup":              {"journal/..."},
	"client":              {"client/..."},
	"services/echo":       {"client/..."},
	"node":                {"client", "proof/..."},
	"journal/journaltest": {"journal/..."},
}

// only says which packages alone import an outside module.
var only = map[string][]string{
	"github.com/cockroachdb/pebble/v2": {"journal/raft", "view", "internal/durable"},
	"go.etcd.io/raft/v3":               {"journal/raft"},
	"github.com/jackc/pgx/v5":          {"journal/postgres"},
	"filippo.io/age":                   {"backup"},
	"github.com/minio/minio-go/v7":     {"backup"},
}

type pkg struct {
	ImportPath                         string
	Name, Doc                          string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func fits(pattern, pkg string) bool {
	if folder, ok := strings.CutSuffix(pattern, "/..."); ok {
		return strings.HasPrefix(pkg, folder+"/")
	}
	return pattern == pkg
}

func allowed(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, pkg) })
}

func TestImportDirections(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		row := -1
		for i, r := range may {
			if fits(r.pkg, name) {
				row = i
				break
			}
		}
		if row < 0 {
			t.Errorf("%s: no row in the table says what it may import; add one on purpose", name)
			continue
		}
		check := func(imports, patterns []string, where string) {
			for _, i := range imports {
				if ours, ok := strings.CutPrefix(i, module+"/"); ok && ours != name && !allowed(patterns, ours) {
					t.Errorf("%s%s imports %s, which DESIGN §9 forbids", name, where, ours)
				}
				for outside, who := range only {
					if (i == outside || strings.HasPrefix(i, outside+"/")) && !slices.Contains(who, name) {
						t.Errorf("%s%s imports %s, which only %s may", name, where, i, strings.Join(who, ", "))
					}
				}
			}
		}
		check(p.Imports, may[row].from, "")
		wide := append(slices.Clone(may[row].from), mayInTests[name]...)
		check(p.TestImports, wide, " (test)")
		check(p.XTestImports, append(wide, name), " (test)")
	}
}

// The table itself must be able to say no.
func TestImportTableForbids(t *testing.T) {
	if allowed([]string{"gen/...", "internal/id"}, "internal/clock") || !allowed([]string{"gen/..."}, "gen/bongsu/edge/v1") || fits("chat", "chat/x") {
		t.Fatal("the matcher allows what it must not, or forbids what it must allow")
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if strings.Contains(p.ImportPath, "/gen/") {
			continue
		}
		if len(p.Doc) < 30 {
			t.Errorf("%s: package comment %q says too little", p.ImportPath, p.Doc)
		}
	}
}
