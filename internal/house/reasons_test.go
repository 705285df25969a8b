package house

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// refusal is a code and a reason, as clients see them.
type refusal struct{ code, reason string }

// reasonsOf collects every refusal that the sources of some packages can give.
// It reads the sources, so that a reason is found wherever it is written, and
// fails for one that it cannot read: reasons are literal words.
type reasonsOf struct {
	t     *testing.T
	fset  *token.FileSet
	found map[refusal]string // where
	// words are what named constants stand for: gateway's codes, chat's reasons.
	words map[string]string
	kinds []string // what the gateway's shortText is called with
}

func (c *reasonsOf) parse(dir string) (files []*ast.File) {
	c.t.Helper()
	names, err := filepath.Glob("../../" + dir + "/*.go")
	if err != nil || len(names) == 0 {
		c.t.Fatalf("no sources in %s: %v", dir, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(c.fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			c.t.Fatal(err)
		}
		files = append(files, f)
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == len(spec.Values) {
				for i, name := range spec.Names {
					if s, ok := text(spec.Values[i]); ok {
						c.words[name.Name] = s
					}
				}
			}
			return true
		})
	}
	return files
}

func text(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

func (c *reasonsOf) word(e ast.Expr) (string, bool) {
	if s, ok := text(e); ok {
		return s, true
	}
	if id, ok := e.(*ast.Ident); ok {
		s, ok := c.words[id.Name]
		return s, ok
	}
	return "", false
}

func (c *reasonsOf) add(n ast.Node, code, reason string) {
	c.found[refusal{code, reason}] = strings.TrimPrefix(c.fset.Position(n.Pos()).String(), "../../")
}

// tables reads the rows of chat.Reasons and of shard's reasons: composite
// literals that begin with a code and a reason.
func (c *reasonsOf) tables(dir string, want *regexp.Regexp) {
	for _, f := range c.parse(dir) {
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok || len(lit.Elts) < 4 {
				return true
			}
			if id, named := lit.Type.(*ast.Ident); named && !want.MatchString(id.Name) {
				return true
			}
			code, ok1 := c.word(lit.Elts[0])
			reason, ok2 := c.word(lit.Elts[1])
			if ok1 && ok2 && code != "" {
				c.add(lit, code, reason)
			}
			return true
		})
	}
}

// calls reads the gateway's refusals: calls of the functions that make them.
func (c *reasonsOf) calls() {
	makers := map[string]string{"invalid": "invalid_argument", "exhausted": "resource_exhausted", "unavailable": "unavailable", "refuse": ""}
	files := c.parse("gateway")
	for _, f := range files {
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil || makers[fn.Name.Name] != "" {
				continue
			}
			override := "" // r.e.Code = codeX in the same function
			ast.Inspect(fn, func(n ast.Node) bool {
				a, ok := n.(*ast.AssignStmt)
				if !ok || len(a.Lhs) != 1 || fn.Name.Name == "complete" {
					return true
				}
				if sel, ok := a.Lhs[0].(*ast.SelectorExpr); ok && sel.Sel.Name == "Code" {
					override, _ = c.word(a.Rhs[0])
				}
				return true
			})
			ast.Inspect(fn, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				id, ok := call.Fun.(*ast.Ident)
				if !ok {
					return true
				}
				if id.Name == "shortText" && len(call.Args) > 1 {
					kind, ok := text(call.Args[1])
					if !ok {
						c.t.Errorf("%s: the kind of text is not a literal", c.fset.Position(call.Pos()))
					}
					c.kinds = append(c.kinds, kind)
				}
				code, made := makers[id.Name]
				if !made {
					return true
				}
				reason := call.Args[0]
				switch id.Name {
				case "refuse":
					code, _ = c.word(call.Args[0])
					reason = call.Args[1]
				case "invalid":
					reason = call.Args[1]
				}
				if override != "" {
					code = override
				}
				s, ok := text(reason)
				switch {
				case ok:
					c.add(call, code, s)
				case fn.Name.Name != "shortText": // whose reasons are made of its kinds, below
					c.t.Errorf("%s: the reason is not a literal word", c.fset.Position(call.Pos()))
				}
				return true
			})
		}
	}
	for _, kind := range c.kinds {
		c.found[refusal{"invalid_argument", "bad_" + strings.ReplaceAll(kind, " ", "_")}] = "gateway shortText " + kind
	}
}

// documented reads the rows of docs/errors.md.
func documented(t *testing.T) map[refusal]bool {
	t.Helper()
	f, err := os.Open("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows := map[refusal]bool{}
	row := regexp.MustCompile("^\\| `([a-z_]+)` \\| `([a-z_]+)` \\| (.+) \\| (.+) \\|$")
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		m := row.FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "| `") {
				t.Errorf("docs/errors.md: not a row of code, reason, meaning, again: %s", line)
			}
			continue
		}
		r := refusal{m[1], m[2]}
		if rows[r] {
			t.Errorf("docs/errors.md: %v is there twice", r)
		}
		rows[r] = true
	}
	return rows
}

// docs/errors.md lists every refusal that a server can give, and no other.
func TestErrorsAreDocumented(t *testing.T) {
	c := &reasonsOf{t: t, fset: token.NewFileSet(), found: map[refusal]string{}, words: map[string]string{}}
	c.tables("chat", regexp.MustCompile("^ReasonInfo$"))
	rules := len(c.found)
	c.tables("shard", regexp.MustCompile("^reason$"))
	shards := len(c.found)
	c.calls()
	// The collector itself must find something in each, or it would agree with
	// an empty page.
	if rules < 30 || shards-rules < 8 || len(c.found)-shards < 15 || len(c.kinds) < 3 {
		t.Fatalf("found only %d reasons in chat, %d more in shard, %d more in gateway", rules, shards-rules, len(c.found)-shards)
	}
	doc := documented(t)
	order := func(a, b refusal) int { return strings.Compare(a.code+a.reason, b.code+b.reason) }
	for _, r := range slices.SortedFunc(maps.Keys(c.found), order) {
		if !doc[r] {
			t.Errorf("docs/errors.md lacks | `%s` | `%s` |, given at %s", r.code, r.reason, c.found[r])
		}
	}
	for _, r := range slices.SortedFunc(maps.Keys(doc), order) {
		if c.found[r] == "" {
			t.Errorf("docs/errors.md has | `%s` | `%s` |, which nothing gives", r.code, r.reason)
		}
	}
}
