// Package report turns figures into one HTML file that needs nothing else: no
// script, no font, no network. Plots are inline SVG; colours follow the
// reader's light or dark mode, and a phone can show it.
//
// Vocabulary: a Page has Sections; each may have Tiles (a figure in large
// type), Tables, Charts and Facts (small print). A Tone is how good something
// is, always told in words as well as in colour.
//
// Concurrency: values are plain; a Page may be written by one goroutine while
// nobody changes it. It knows nothing of what is measured, and reads nothing.
package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

// Tone of a tile, cell or badge.
type Tone string

// The tones there are.
const (
	Plain Tone = ""
	Good  Tone = "good"
	Bad   Tone = "bad"
	Doubt Tone = "doubt"
)

// Page is one report.
type Page struct {
	Title, Lead string
	Badges      []Badge
	Sections    []Section
	// Facts of the whole: machine, version, command.
	Facts []Fact
}

// Section of a Page.
type Section struct {
	Title, Lead string
	Badges      []Badge
	Tiles       []Tile
	Tables      []Table
	Charts      []Chart
	Drawings    []Drawing
	Facts       []Fact
}

// Drawing is a picture that is not a Chart, as wide as the page.
type Drawing struct {
	Title, Note string
	Legend      []string // what the colours stand for, from the first
	SVG         template.HTML
}

// Badge is a short verdict.
type Badge struct {
	Text string
	Tone Tone
}

// Tile is one figure in large type.
type Tile struct {
	Name, Value, Unit, Note string
	Tone                    Tone
}

// Fact is one line of small print. Code is set in a fixed width.
type Fact struct {
	Name, Value string
	Code        bool
}

// Table of cells; the first of a row is its name, the others are figures or, if
// Words, sentences.
type Table struct {
	Title string
	Words bool
	Head  []string
	Rows  [][]Cell
}

// Cell of a Table.
type Cell struct {
	Text string
	Tone Tone
}

//go:embed page.html
var pageHTML string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	// Chart.SVG escapes all that is not its own.
	"svg": func(c Chart) template.HTML { return template.HTML(c.SVG()) },
	"color": func(i int, l Line) int {
		if l.Color > 0 {
			i = l.Color - 1
		}
		return i%colors + 1
	},
	"next":    func(i int) int { return i%colors + 1 },
	"several": func(lines []Line) bool { return len(lines) > 1 },
}).Parse(pageHTML))

// Write writes the page.
func (p Page) Write(w io.Writer) error {
	if err := page.Execute(w, p); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
