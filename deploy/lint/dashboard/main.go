// Command dashboard writes deploy/grafana/dashboard.json: panels.go says what
// is shown, this turns it into what Grafana imports.
//
// Vocabulary: a row is a heading with panels under it; a panel shows queries in
// one unit. Grafana's grid is 24 wide; panels are laid out in the order in
// which they stand. Everything runs in one goroutine.
//
// What it does not do: talk to a Grafana or a Prometheus.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
)

func main() {
	file := flag.String("file", "../grafana/dashboard.json", "where to write it")
	flag.Parse()
	text, err := build(rows)
	if err == nil {
		err = os.WriteFile(*file, text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(2)
	}
}

// row is a heading and what stands under it.
type row struct {
	title  string
	panels []panel
}

// panel is one picture. Zero width and height are those of its kind.
type panel struct {
	title, about string
	kind         kind
	unit         string // Grafana's name of it
	queries      []query
	width        int
	limits       []limit // where colours change
	noLess       bool    // the axis begins at zero
	stacked      bool
}

// query is an expression and what its lines are called.
type query struct{ expr, legend string }

// limit: from this value on, this colour.
type limit struct {
	from   float64
	colour string
}

type kind string

const (
	stat   kind = "stat"
	series kind = "timeseries"
	table  kind = "table"
	states kind = "state-timeline"
)

var sizes = map[kind]struct{ width, height int }{stat: {4, 4}, series: {8, 8}, table: {8, 8}, states: {24, 7}}

const gridWidth = 24

type object = map[string]any

var source = object{"type": "prometheus", "uid": "$datasource"}

// build makes the JSON of a dashboard.
func build(rows []row) ([]byte, error) {
	l := layout{}
	var panels []object
	for _, r := range rows {
		panels = append(panels, l.heading(r.title))
		for _, p := range r.panels {
			made, err := l.panel(p)
			if err != nil {
				return nil, err
			}
			panels = append(panels, made)
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(object{
		"uid": "bongsu", "title": "Bongsu", "tags": []string{"bongsu"}, "schemaVersion": 39, "version": 1, "editable": true,
		"description": "Made by deploy/lint/dashboard: change that, not this.",
		"time":        object{"from": "now-3h", "to": "now"}, "refresh": "30s", "timezone": "browser", "graphTooltip": 1,
		"templating":  object{"list": variables()},
		"annotations": object{"list": []object{annotation}},
		"links": []object{{
			"title": "Runbooks", "type": "link", "url": "https://github.com/bongsu-im/bongsu/tree/main/docs/runbooks", "targetBlank": true, "icon": "doc",
		}},
		"panels": panels,
	})
	return out.Bytes(), err
}

// annotation marks alerts that people were woken for.
var annotation = object{
	"name": "Alerts", "datasource": source, "enable": true, "iconColor": "red", "titleFormat": "{{alertname}}", "textFormat": "{{instance}} {{shard}}", "step": "60s",
	"expr": `ALERTS{alertstate="firing", severity="page", alertname=~"Bongsu.*"}`,
}

func variables() []object {
	ask := func(name, label, of string, many bool) object {
		return object{
			"name": name, "label": label, "type": "query", "datasource": source, "definition": of, "refresh": 2, "sort": 3,
			"query": object{"query": of, "refId": name}, "multi": many, "includeAll": many, "allValue": ".*",
			"current": object{"text": map[bool]string{true: "All", false: "bongsu"}[many], "value": map[bool]string{true: "$__all", false: "bongsu"}[many]},
		}
	}
	return []object{
		{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": object{}},
		ask("job", "Cluster", "label_values(bongsu_build_info, job)", false),
		ask("instance", "Node", `label_values(up{job="$job"}, instance)`, true),
		ask("shard", "Shard", `label_values(bongsu_shard_owner{job="$job"}, shard)`, true),
	}
}

// layout puts panels beside and under each other.
type layout struct{ x, y, height, id int }

func (l *layout) heading(title string) object {
	l.y, l.x, l.height = l.y+l.height, 0, 0
	l.id++
	at := object{"x": 0, "y": l.y, "w": gridWidth, "h": 1}
	l.y++
	return object{"id": l.id, "type": "row", "title": title, "collapsed": false, "gridPos": at, "panels": []object{}}
}

func (l *layout) panel(p panel) (object, error) {
	size, ok := sizes[p.kind]
	if !ok || p.title == "" || p.about == "" || p.unit == "" || len(p.queries) == 0 {
		return nil, fmt.Errorf("panel %q: wants a kind, a title, a description, a unit and queries", p.title)
	}
	if p.width > 0 {
		size.width = p.width
	}
	if l.x+size.width > gridWidth {
		l.x, l.y, l.height = 0, l.y+l.height, 0
	}
	at := object{"x": l.x, "y": l.y, "w": size.width, "h": size.height}
	l.x, l.height = l.x+size.width, max(l.height, size.height)
	l.id++
	return object{
		"id": l.id, "type": p.kind, "title": p.title, "description": p.about, "datasource": source, "gridPos": at,
		"targets": targets(p), "fieldConfig": fields(p), "options": options(p.kind),
	}, nil
}

func targets(p panel) (out []object) {
	for i, q := range p.queries {
		out = append(out, object{
			"refId": string(rune('A' + i)), "datasource": source, "expr": q.expr, "legendFormat": q.legend,
			"instant": p.kind == table, "range": p.kind != table, "format": map[bool]string{true: "table", false: "time_series"}[p.kind == table],
		})
	}
	return out
}

func fields(p panel) object {
	steps := []object{{"color": "green", "value": nil}}
	for _, l := range p.limits {
		steps = append(steps, object{"color": l.colour, "value": l.from})
	}
	defaults := object{"unit": p.unit, "thresholds": object{"mode": "absolute", "steps": steps}}
	if p.noLess {
		defaults["min"] = 0
	}
	if p.kind == series {
		custom := object{"lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": false}
		if p.stacked {
			custom["stacking"], custom["fillOpacity"] = object{"mode": "normal", "group": "A"}, 40
		}
		if len(p.limits) > 0 {
			custom["thresholdsStyle"] = object{"mode": "dashed"}
		}
		defaults["custom"] = custom
	}
	return object{"defaults": defaults, "overrides": []object{}}
}

func options(k kind) object {
	switch k {
	case stat:
		return object{"reduceOptions": object{"calcs": []string{"lastNotNull"}, "values": false}, "colorMode": "background", "graphMode": "area", "textMode": "auto"}
	case series:
		return object{"legend": object{"displayMode": "list", "placement": "bottom"}, "tooltip": object{"mode": "multi", "sort": "desc"}}
	case states:
		return object{"mergeValues": true, "showValue": "never", "rowHeight": 0.9, "legend": object{"displayMode": "list", "placement": "bottom"}}
	default:
		return object{"showHeader": true}
	}
}
