package demo

import "time"

// state is what the page shows, told again and again.
type state struct {
	Now   int64       `json:"now"` // Unix milliseconds
	Phase phase       `json:"phase"`
	Nodes []nodeState `json:"nodes"`
	// Leaders are those of the shards, in order; empty where there is none.
	Leaders []string `json:"leaders"`
	// StatusAge is how old this knowledge of leaders is, in milliseconds.
	StatusAge int64   `json:"status_age"`
	Tally     Tally   `json:"tally"`
	Figures   Figures `json:"figures"`
	Rate      float64 `json:"rate"`
	Audits    []Audit `json:"audits"`
	// Bots and Rooms is how many there are.
	Bots  int `json:"bots"`
	Rooms int `json:"rooms"`
}

type nodeState struct {
	Name string `json:"name"`
	Zone string `json:"zone"`
	URL  string `json:"url"`
	condition
	// Member tells that it votes somewhere; Ready that the front gets an
	// answer; Conns how many connections the front has led there.
	Member bool `json:"member"`
	Ready  bool `json:"ready"`
	Conns  int  `json:"conns"`
	// Replicas is in how many shards it votes.
	Replicas int `json:"replicas"`
}

func (d *Demo) state(now time.Time) state {
	status, asked := d.fleet.Status()
	s := state{
		Now: now.UnixMilli(), Leaders: status.leaders, Rate: d.director.Rate(),
		Tally: d.ledger.Tally(), Figures: d.meter.Figures(now), StatusAge: -1,
	}
	if !asked.IsZero() {
		s.StatusAge = now.Sub(asked).Milliseconds()
	}
	seen := d.front.Nodes()
	for _, n := range d.fleet.nodes {
		view := seen[n.name]
		s.Nodes = append(s.Nodes, nodeState{
			Name: n.name, Zone: n.zone, URL: n.server.BaseURL(), condition: n.condition(),
			Member: status.voters[n.name] > 0, Ready: view.Up, Conns: view.Conns, Replicas: status.voters[n.name],
		})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Phase, s.Audits, s.Rooms = d.phase, d.audits, len(d.hosts)
	s.Bots = max(len(d.bots)-1, 0) // the guide is no talker
	return s
}
