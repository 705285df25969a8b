package load

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// counters are what a server tells of itself at /metrics, by name and labels as
// they stand there; nil if it tells nothing.
type counters map[string]float64

// maxMetrics bounds what is read of /metrics.
const maxMetrics = 8 << 20

// counters asks the server. Whatever goes wrong, it has told nothing: a figure
// that is missing must not end a measurement.
func (r *rig) counters(ctx context.Context) counters {
	if r.cfg.relay {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.server.url+"/metrics", nil)
	if err != nil {
		return nil
	}
	response, err := r.http.Do(request)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil
	}
	return parseCounters(io.LimitReader(response.Body, maxMetrics))
}

// parseCounters reads the text format of Prometheus.
func parseCounters(in io.Reader) counters {
	c := counters{}
	for s := bufio.NewScanner(in); s.Scan(); {
		name, value, ok := cutLast(s.Text())
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			c[name] = v
		}
	}
	if len(c) == 0 {
		return nil
	}
	return c
}

func cutLast(line string) (before, after string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// sum adds up all that have a name and, among their labels, those given, such
// as `kind="read_advanced"`.
func (c counters) sum(name string, labels ...string) (total float64, known bool) {
next:
	for key, value := range c {
		rest, ok := strings.CutPrefix(key, name)
		if !ok || rest != "" && rest[0] != '{' {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue next
			}
		}
		total, known = total+value, true
	}
	return total, known
}

// grown returns by how much a sum has grown.
func grown(first, last counters, name string, labels ...string) (float64, bool) {
	after, known := last.sum(name, labels...)
	before, _ := first.sum(name, labels...) // absent until it first counts
	return after - before, known && first != nil
}
