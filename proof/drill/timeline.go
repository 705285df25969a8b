package drill

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// timeline is what happened when, for the report.
type timeline struct {
	began   time.Time
	talking time.Time // when people began; set before anyone reads it

	mu    sync.Mutex
	file  io.Writer // gets every line at once; nil for none
	leads []leadsAt
	notes []Note
}

// Note is something that a node did by itself.
type Note struct {
	At   float64 `json:"at"` // seconds since the run began
	Node string  `json:"node"`
	Text string  `json:"text"`
}

// leadsAt is who led each shard at a moment; "" for nobody.
type leadsAt struct {
	at      float64
	leaders []string
}

// maxNotes bounds the notes of a run.
const maxNotes = 500

func (l *timeline) now() float64 { return time.Since(l.began).Seconds() }

func (l *timeline) note(node int, format string, args ...any) {
	l.log("n%d %s", node+1, fmt.Sprintf(format, args...))
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.notes) < maxNotes {
		l.notes = append(l.notes, Note{At: time.Since(l.began).Seconds(), Node: fmt.Sprintf("n%d", node+1), Text: fmt.Sprintf(format, args...)})
	}
}

// log writes a line of the drill's own log.
func (l *timeline) log(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		// A log that cannot be written spoils no run.
		_, _ = fmt.Fprintf(l.file, "%s %8.2f  %s\n", time.Now().UTC().Format("15:04:05.000"), time.Since(l.began).Seconds(), fmt.Sprintf(format, args...))
	}
}

// led notes who leads now, if that has changed.
func (l *timeline) led(s clusterStatus) {
	now := leadsAt{at: l.now()}
	for _, sh := range s.Shards {
		now.leaders = append(now.leaders, sh.Leader)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.leads); n == 0 || !slices.Equal(l.leads[n-1].leaders, now.leaders) {
		l.leads = append(l.leads, now)
	}
}
