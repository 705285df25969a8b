// Command capacity is the calculator behind docs/capacity.md: the document's
// tables are its program. It evaluates the formulas, with other inputs if
// asked, and writes the figures back.
//
// Vocabulary: an input is a named value with its source; a step is a formula
// over what stands above it, or a value a column; a change sets inputs
// otherwise and asks for one step. A single goroutine does it all.
//
// What it does not do: know anything about Bongsu. Every number and every
// formula is in the document.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// document is where it is from deploy/lint, where `go run -C` starts it.
const document = "../../docs/capacity.md"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "capacity:", err)
		os.Exit(2)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("capacity", flag.ContinueOnError)
	file := flags.String("file", document, "the document")
	write := flags.Bool("write", false, "write the figures into the document")
	var words []string
	flags.Func("set", "`name=value` of an input or of people; may be repeated", func(w string) error {
		words = append(words, w)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	s, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	if *write {
		rendered, err := s.render()
		if err != nil {
			return fmt.Errorf("%s: %w", *file, err)
		}
		return os.WriteFile(*file, []byte(rendered), 0o644)
	}
	sets, err := settings(words)
	if err != nil {
		return err
	}
	return s.print(out, sets)
}

// print shows the steps: of every column, or of one where the people are given.
func (s *sheet) print(out io.Writer, sets map[string]float64) error {
	columns := s.columns
	if _, given := sets["people"]; given {
		columns = []string{"as asked"}
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\t%s\t\n", strings.Join(columns, "\t"))
	var all []values
	for c := range columns {
		v, err := s.compute(c, sets)
		if err != nil {
			return err
		}
		all = append(all, v)
	}
	for _, st := range s.steps {
		fmt.Fprint(w, st.name)
		for _, v := range all {
			fmt.Fprintf(w, "\t%s", figure(v[st.name]))
		}
		fmt.Fprint(w, "\t\n")
	}
	return w.Flush()
}
