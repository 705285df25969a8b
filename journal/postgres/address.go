package postgres

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// address is a journal URL, taken apart: what is ours, and what pgx connects to.
type address struct {
	conn        *pgx.ConnConfig
	schema      string
	allowSingle bool
	lease       time.Duration // 0: not given
	name        string        // for people: no password in it
}

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,40}$`)

// connectTimeout bounds the attempt at one host unless the URL says otherwise.
const connectTimeout = 3 * time.Second

// parseAddress reads a URL of the form
//
//	postgres://user:password@host1:5432,host2:5432/database?parameters
//
// with the parameters of libpq, and ours: schema, allow_single, lease. No error
// of it has the URL in it, which holds a password.
func parseAddress(raw string) (address, error) {
	a := address{}
	base, query, _ := strings.Cut(raw, "?")
	if !strings.HasPrefix(base, "postgres://") && !strings.HasPrefix(base, "postgresql://") {
		return a, errors.New("journal URL: it must begin with postgres://")
	}
	params, err := url.ParseQuery(query)
	if err != nil {
		return a, errors.New("journal URL: its parameters cannot be read")
	}
	if err := a.takeOurs(params); err != nil {
		return a, fmt.Errorf("journal URL: %w", err)
	}
	if !params.Has("target_session_attrs") {
		params.Set("target_session_attrs", "read-write")
	}
	if a.conn, err = pgx.ParseConfig(base + "?" + params.Encode()); err != nil {
		// pgx hides passwords as well as it can, which is not well enough for a log.
		return a, errors.New("journal URL: not a connection URL that pgx understands (hosts, ports, sslmode, certificate files?)")
	}
	if a.conn.ConnectTimeout == 0 || a.conn.ConnectTimeout > time.Minute {
		a.conn.ConnectTimeout = connectTimeout
	}
	a.name = hosts(&a.conn.Config) + "/" + a.conn.Database
	return a, nil
}

// takeOurs removes the parameters that are not PostgreSQL's.
func (a *address) takeOurs(params url.Values) error {
	switch v := params.Get("allow_single"); v {
	case "", "0":
	case "1":
		a.allowSingle = true
	default:
		return fmt.Errorf("allow_single=%q, only 0 and 1 have a meaning", v)
	}
	if a.schema = params.Get("schema"); a.schema != "" && !schemaName.MatchString(a.schema) {
		return errors.New("schema must be of lower-case letters, digits and _, at most 41")
	}
	if v := params.Get("lease"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d < minLease || d > maxLease {
			return fmt.Errorf("lease must be a time from %v to %v", minLease, maxLease)
		}
		a.lease = d
	}
	for _, p := range []string{"allow_single", "schema", "lease"} {
		params.Del(p)
	}
	return nil
}

func hosts(c *pgconn.Config) string {
	all := []string{fmt.Sprintf("%s:%d", c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		h := fmt.Sprintf("%s:%d", f.Host, f.Port)
		if h != all[len(all)-1] { // the same host again without TLS
			all = append(all, h)
		}
	}
	return strings.Join(all, ",")
}
