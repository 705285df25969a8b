package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// sheet is a document with tables of inputs, steps and changes.
type sheet struct {
	lines   []string
	inputs  []input
	columns []string // headings of the steps' columns
	steps   []step
	changes []change
	asked   string // the step that the table of changes is about
}

// input is a row of the table of inputs: a value with its source.
type input struct {
	name  string
	value float64
}

// step is a row of the table of steps: a formula over what stands above it, or
// (without one) a value of each column.
type step struct {
	line    int
	name    string
	formula ast.Expr // nil: given
	cells   []string
}

// change is a row of the last table: inputs that are different, and what the
// asked step then is.
type change struct {
	line  int
	sets  map[string]float64
	cells []string
}

// values are the names of one column with what they are.
type values map[string]float64

var (
	codeCell   = regexp.MustCompile("^`([^`]+)`$")
	nameRule   = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	changeHead = regexp.MustCompile("^Machines \\(`([a-z_]+)`\\) if one thing is different:$")
)

// parse reads the tables of a document. A table begins behind its heading.
func parse(text string) (*sheet, error) {
	s := &sheet{lines: strings.Split(text, "\n")}
	table := ""
	for n, line := range s.lines {
		cells := row(line)
		switch {
		case cells == nil:
			if m := changeHead.FindStringSubmatch(line); m != nil {
				s.asked = m[1]
			}
			table = ""
			continue
		case table == "":
			if table = kindOf(cells); table == "steps" {
				s.columns = cells[3:]
			}
			continue
		case strings.HasPrefix(cells[0], "---"):
			continue
		}
		if err := s.read(table, n, cells); err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	if len(s.inputs) == 0 || len(s.steps) == 0 || len(s.changes) == 0 || s.asked == "" {
		return nil, fmt.Errorf("%d inputs, %d steps, %d changes of %q: a table is missing", len(s.inputs), len(s.steps), len(s.changes), s.asked)
	}
	return s, nil
}

// row splits a line of a table into its cells; nil for any other line.
func row(line string) []string {
	if !strings.HasPrefix(line, "|") || !strings.HasSuffix(line, "|") {
		return nil
	}
	cells := strings.Split(strings.Trim(line, "|"), "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	return cells
}

func kindOf(heading []string) string {
	switch {
	case len(heading) == 4 && heading[1] == "value":
		return "inputs"
	case len(heading) > 3 && heading[1] == "formula":
		return "steps"
	case len(heading) > 1 && heading[0] == "change":
		return "changes"
	}
	return "other"
}

func (s *sheet) read(table string, n int, cells []string) error {
	switch table {
	case "inputs":
		name, err := s.newName(cells[0])
		if err != nil {
			return err
		}
		value, err := strconv.ParseFloat(cells[1], 64)
		if err != nil {
			return fmt.Errorf("value of %s: %w", name, err)
		}
		s.inputs = append(s.inputs, input{name, value})
	case "steps":
		return s.readStep(n, cells)
	case "changes":
		m := codeCell.FindStringSubmatch(cells[0])
		if m == nil || len(cells) != 1+len(s.columns) {
			return fmt.Errorf("%q is not `name=value …` and %d cells", cells, len(s.columns))
		}
		sets, err := settings(strings.Fields(m[1]))
		if err != nil {
			return err
		}
		s.changes = append(s.changes, change{n, sets, cells[1:]})
	}
	return nil
}

func (s *sheet) readStep(n int, cells []string) error {
	name, err := s.newName(cells[0])
	if err != nil {
		return err
	}
	if len(cells) != 3+len(s.columns) {
		return fmt.Errorf("%s: %d cells, want %d", name, len(cells), 3+len(s.columns))
	}
	st := step{line: n, name: name, cells: cells[3:]}
	if cells[1] != "" {
		m := codeCell.FindStringSubmatch(cells[1])
		if m == nil {
			return fmt.Errorf("%s: the formula %q does not stand in `code`", name, cells[1])
		}
		if st.formula, err = parser.ParseExpr(m[1]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	s.steps = append(s.steps, st)
	return nil
}

func (s *sheet) newName(cell string) (string, error) {
	m := codeCell.FindStringSubmatch(cell)
	if m == nil || !nameRule.MatchString(m[1]) {
		return "", fmt.Errorf("%q is not a `name`", cell)
	}
	taken := slices.ContainsFunc(s.inputs, func(i input) bool { return i.name == m[1] }) ||
		slices.ContainsFunc(s.steps, func(st step) bool { return st.name == m[1] })
	if taken {
		return "", fmt.Errorf("%s is there twice", m[1])
	}
	return m[1], nil
}

// settings reads name=value.
func settings(words []string) (map[string]float64, error) {
	sets := map[string]float64{}
	for _, w := range words {
		name, text, ok := strings.Cut(w, "=")
		value, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil || !nameRule.MatchString(name) {
			return nil, fmt.Errorf("%q is not name=value", w)
		}
		sets[name] = value
	}
	return sets, nil
}

// compute evaluates every step of one column, with some values different. What
// is set must exist and must not be a formula's.
func (s *sheet) compute(column int, sets map[string]float64) (values, error) {
	v := values{}
	left := maps.Clone(sets)
	give := func(name string, value float64) {
		if other, ok := left[name]; ok {
			value = other
			delete(left, name)
		}
		v[name] = value
	}
	for _, i := range s.inputs {
		give(i.name, i.value)
	}
	for _, st := range s.steps {
		if st.formula == nil {
			value, err := strconv.ParseFloat(st.cells[column], 64)
			if err != nil {
				return nil, fmt.Errorf("%s of column %d: %w", st.name, column+1, err)
			}
			give(st.name, value)
			continue
		}
		value, err := eval(st.formula, v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", st.name, err)
		}
		v[st.name] = value
	}
	for name := range left {
		return nil, fmt.Errorf("%s is not an input", name)
	}
	return v, nil
}

// eval evaluates a formula: names, numbers, + - * /, parentheses, ceil, max.
func eval(e ast.Expr, v values) (float64, error) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return strconv.ParseFloat(e.Value, 64)
	case *ast.ParenExpr:
		return eval(e.X, v)
	case *ast.Ident:
		value, ok := v[e.Name]
		if !ok {
			return 0, fmt.Errorf("%s is not known here: it must stand above", e.Name)
		}
		return value, nil
	case *ast.BinaryExpr:
		return evalBinary(e, v)
	case *ast.CallExpr:
		return evalCall(e, v)
	}
	return 0, fmt.Errorf("%T is not arithmetic", e)
}

func evalBinary(e *ast.BinaryExpr, v values) (float64, error) {
	x, err := eval(e.X, v)
	if err != nil {
		return 0, err
	}
	y, err := eval(e.Y, v)
	if err != nil {
		return 0, err
	}
	switch e.Op {
	case token.ADD:
		return x + y, nil
	case token.SUB:
		return x - y, nil
	case token.MUL:
		return x * y, nil
	case token.QUO:
		if y == 0 {
			return 0, errors.New("division by zero")
		}
		return x / y, nil
	}
	return 0, fmt.Errorf("%s is not arithmetic", e.Op)
}

func evalCall(e *ast.CallExpr, v values) (float64, error) {
	var args []float64
	for _, a := range e.Args {
		x, err := eval(a, v)
		if err != nil {
			return 0, err
		}
		args = append(args, x)
	}
	name, _ := e.Fun.(*ast.Ident)
	switch {
	case name == nil || len(args) == 0:
	case name.Name == "ceil" && len(args) == 1:
		return math.Ceil(args[0] - 1e-9), nil // 3 × (1 ÷ 3) is 1
	case name.Name == "max":
		return slices.Max(args), nil
	}
	return 0, errors.New("only ceil(x) and max(x, …) are known")
}

// render returns the document with every figure as its formula says.
func (s *sheet) render() (string, error) {
	lines := slices.Clone(s.lines)
	columns := make([]values, len(s.columns))
	for c := range columns {
		var err error
		if columns[c], err = s.compute(c, nil); err != nil {
			return "", err
		}
	}
	for _, st := range s.steps {
		if st.formula == nil {
			continue
		}
		var figures []string
		for _, v := range columns {
			figures = append(figures, figure(v[st.name]))
		}
		lines[st.line] = refill(lines[st.line], 3, figures)
	}
	for _, ch := range s.changes {
		var figures []string
		for c := range columns {
			v, err := s.compute(c, ch.sets)
			if err != nil {
				return "", fmt.Errorf("line %d: %w", ch.line+1, err)
			}
			if _, ok := v[s.asked]; !ok {
				return "", fmt.Errorf("%s is not a step", s.asked)
			}
			figures = append(figures, figure(v[s.asked]))
		}
		lines[ch.line] = refill(lines[ch.line], 1, figures)
	}
	return strings.Join(lines, "\n"), nil
}

// refill puts figures into the cells of a row from some cell on.
func refill(line string, from int, figures []string) string {
	cells := row(line)
	return "| " + strings.Join(append(cells[:from:from], figures...), " | ") + " |"
}

// figure writes a number with three significant digits, whole ones in full,
// with commas.
func figure(x float64) string {
	if x != math.Trunc(x) && math.Abs(x) < 100 {
		return strconv.FormatFloat(x, 'g', 3, 64)
	}
	digits := strconv.FormatFloat(math.Round(x), 'f', 0, 64)
	var out []byte
	for i, d := range []byte(digits) {
		if left := len(digits) - i; i > 0 && left%3 == 0 && digits[i-1] != '-' {
			out = append(out, ',')
		}
		out = append(out, d)
	}
	return string(out)
}
