package drill

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// Collection counts the faults of many runs, with the seeds that replay them:
// a promise over a thousand faults is proved a few minutes at a time.
type Collection struct {
	Faults       int               `json:"faults"`
	Acknowledged int               `json:"acknowledged"`
	Lost         int               `json:"lost"`
	Duplicated   int               `json:"duplicated"`
	Moved        int               `json:"moved"`
	Holes        int               `json:"holes"`
	Violations   int               `json:"linearizability_violations"`
	Kinds        map[FaultKind]int `json:"kinds"`
	Runs         []CollectedRun    `json:"runs"`
}

// CollectedRun is one run in a Collection.
type CollectedRun struct {
	When          string  `json:"when"` // UTC
	Version       string  `json:"version"`
	Seed          uint64  `json:"seed"`
	Network       string  `json:"network"`
	Seconds       float64 `json:"seconds"`
	Faults        int     `json:"faults"`
	Acknowledged  int     `json:"acknowledged"`
	FailoverP50Ms float64 `json:"failover_p50_ms,omitempty"`
	FailoverP99Ms float64 `json:"failover_p99_ms,omitempty"`
	Passed        bool    `json:"passed"`
}

// Collect adds a run to the collection in a file, which is made if it is
// missing, and returns what there is now. Runs that did not pass are added as
// well: leaving them out would be a lie.
func Collect(file, version string, when time.Time, r *ClusterResult) (*Collection, error) {
	c := &Collection{}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, c)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the collection %s: %w", file, err)
	}
	if c.Kinds == nil {
		c.Kinds = map[FaultKind]int{}
	}
	c.Faults += r.Faults
	c.Acknowledged += r.Acknowledged
	c.Lost += r.Lost
	c.Duplicated += r.Duplicated
	c.Moved += r.Moved
	c.Holes += r.Holes
	c.Violations += r.LinearizabilityViolations
	for k, n := range r.Kinds {
		c.Kinds[k] += n
	}
	c.Runs = append(c.Runs, CollectedRun{
		When: when.UTC().Format("2006-01-02 15:04"), Version: version, Seed: r.Seed, Network: r.Network, Seconds: r.Seconds,
		Faults: r.Faults, Acknowledged: r.Acknowledged, FailoverP50Ms: r.FailoverP50Ms, FailoverP99Ms: r.FailoverP99Ms, Passed: r.Passed,
	})
	if b, err = json.MarshalIndent(c, "", "\t"); err != nil {
		return nil, err
	}
	// Whole or not at all: the file is worth hours.
	if err := os.WriteFile(file+".new", append(b, '\n'), 0o644); err != nil {
		return nil, fmt.Errorf("write the collection: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return nil, fmt.Errorf("write the collection: %w", err)
	}
	return c, nil
}
