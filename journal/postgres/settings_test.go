package postgres

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/bongsu-im/bongsu/journal"
)

// Each setting that could lose a commit is refused at the start, with what to do.
func TestRefusedSettings(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct{ setting, bad, good string }{
		{"fsync", "off", "on"},
		{"full_page_writes", "off", "on"},
		{"synchronous_commit", "off", "on"},
		{"synchronous_commit", "local", "on"},
		{"synchronous_commit", "remote_write", "on"},
		{"zero_damaged_pages", "on", "off"},
		{"ignore_checksum_failure", "on", "off"},
	} {
		t.Run(c.setting+"="+c.bad, func(t *testing.T) {
			s.t = t
			cfg := config(t, s, 1)
			s.setting(c.setting, c.bad)
			j, err := Open(patient(t), cfg)
			s.setting(c.setting, c.good)
			var weak *WeakError
			if !errors.As(err, &weak) || weak.Setting != c.setting || weak.Value != c.bad || weak.Do == "" {
				if err == nil {
					_ = j.Close()
				}
				t.Fatalf("got %v", err)
			}
			mustOpen(t, cfg) // it was that setting and nothing else
		})
	}
	t.Run("no standby", func(t *testing.T) {
		cfg := config(t, s, 1)
		cfg.URL = strings.Replace(cfg.URL, "allow_single=1", "allow_single=0", 1)
		_, err := Open(patient(t), cfg)
		var weak *WeakError
		if !errors.As(err, &weak) || weak.Setting != "synchronous_standby_names" || !strings.Contains(err.Error(), "allow_single=1") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("unlogged table", func(t *testing.T) {
		cfg := config(t, s, 1)
		if err := mustOpen(t, cfg).Close(); err != nil {
			t.Fatal(err)
		}
		s.exec("postgres", inSchema(cfg, "ALTER TABLE @.entries SET UNLOGGED"))
		_, err := Open(patient(t), cfg)
		var weak *WeakError
		if !errors.As(err, &weak) || weak.Setting != "UNLOGGED" || weak.Value != "entries" {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("standby", func(t *testing.T) {
		s.t = t // or the standby would outlive us
		b := s.standby("s1")
		cfg := config(t, b, 1)
		cfg.URL += "&target_session_attrs=any"
		ctx, cancel := context.WithTimeout(bg, 2*time.Second)
		defer cancel()
		if _, err := Open(ctx, cfg); !errors.As(err, new(standbyError)) && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if n := s.ask("postgres", "SELECT count(*)::text FROM pg_namespace WHERE nspname = '"+schemaOf(cfg)+"'"); n != "0" {
			t.Fatal("a store was made through the standby")
		}
	})
	t.Run("pinned", func(t *testing.T) { // what we found at the start stays in force in our sessions
		cfg := config(t, s, 1)
		cfg.Readers = 1 // one that was connected while all was well; a new one would be refused
		j := mustOpen(t, cfg)
		s.setting("synchronous_commit", "off")
		defer s.setting("synchronous_commit", "on")
		err := j.pool.use(bg, func(l *link) error {
			got, err := scanSettings(l.conn.QueryRow(bg, settingsSQL))
			if got.synchronousCommit != "on" {
				t.Errorf("the server's synchronous_commit = off reached our session: %q", got.synchronousCommit)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// A setting that is weakened while the journal runs fences it: the next append
// is not acknowledged, and without one the heart notices.
func TestWeakenedSettingFences(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct {
		name   string
		append bool
	}{{"by the next append", true}, {"without an append", false}} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			cfg := config(t, s, 1)
			if c.append {
				// No heart and no new connection is what notices.
				cfg.LeaseTTL, cfg.Committers, cfg.Readers = time.Minute, 1, 1
			}
			j := mustOpen(t, cfg)
			l := j.Log(0)
			lease := mustLease(t, l)
			mustAppend(t, l, lease, "words")
			if !c.append { // the heart is connected
				alive := inSchema(cfg, "SELECT alive_until::text FROM @.instances")
				for was := s.ask("postgres", alive); was == s.ask("postgres", alive); {
					<-time.After(10 * time.Millisecond)
				}
			}
			s.setting("full_page_writes", "off")
			defer s.setting("full_page_writes", "on")
			var fenced *journal.FencedError
			var weak *WeakError
			if c.append {
				// One backend may hear of the change later than the one we asked.
				for deadline := time.Now().Add(5 * time.Second); ; {
					_, err := l.Append(patient(t), lease, []byte("more"))
					if errors.As(err, &fenced) && errors.As(err, &weak) {
						break
					}
					if err != nil || time.Now().After(deadline) {
						t.Fatalf("append: %v", err)
					}
				}
			} else {
				_, err := l.Read(patient(t), l.Last().Index, 1)
				if !errors.As(err, &fenced) || !errors.As(err, &weak) {
					t.Fatalf("a waiting read: %v", err)
				}
			}
			if weak.Setting != "full_page_writes" || j.Fenced() == nil {
				t.Fatalf("%v; fenced: %v", weak, j.Fenced())
			}
		})
	}
}

// No password in an error or a line of the log, whatever is wrong with the URL
// or the server.
func TestSecretsStaySecret(t *testing.T) {
	const secret = "hunter2zz"
	var log bytes.Buffer
	for _, url := range []string{
		"postgres://u:" + secret + "@127.0.0.1:1/db",
		"postgres://u:" + secret + "@127.0.0.1:1,127.0.0.1:2/db?connect_timeout=1",
		"postgres://u:" + secret + "@127.0.0.1:port/db",
		"postgres://u:" + secret + "@[::1/db",
		"postgres://u:%zz" + secret + "@127.0.0.1:1/db",
		"postgres://127.0.0.1:1/db?password=" + secret,
		"postgres://127.0.0.1:1/db?password=" + secret + "&sslmode=nonsense",
		"postgres://127.0.0.1:1/db?password=" + secret + "%zz",
		"postgres://127.0.0.1:1/db?password=" + secret + "&lease=nonsense",
		"mysql://u:" + secret + "@127.0.0.1/db",
	} {
		ctx, cancel := context.WithTimeout(bg, 300*time.Millisecond)
		_, err := Open(ctx, Config{URL: url, Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		cancel()
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("the log tells it: %s", log.String())
	}
	if log.Len() == 0 {
		t.Error("nothing was logged; the test does not test what it means to")
	}
}

func TestAddress(t *testing.T) {
	a, err := parseAddress("postgresql://u:p@a:1,b:2/db?schema=cell_7&allow_single=1&lease=5s&synchronous_commit=on&sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	if a.schema != "cell_7" || !a.allowSingle || a.lease != 5*time.Second || a.name != "a:1,b:2/db" {
		t.Errorf("%+v", a)
	}
	if p := a.conn.RuntimeParams; p["synchronous_commit"] != "on" || len(p) != 1 {
		t.Errorf("sent to the server: %v", p)
	}
	if a.conn.ValidateConnect == nil {
		t.Error("a standby would be taken")
	}
	for _, bad := range []string{"", "host=x", "postgres://h/d?schema=A", "postgres://h/d?schema=a.b", "postgres://h/d?allow_single=yes", "postgres://h/d?lease=1ms"} {
		if _, err := parseAddress(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestEngines(t *testing.T) {
	for version, want := range map[string]engine{
		"PostgreSQL 15.14 (Debian 15.14-0+deb12u1) on x86_64-pc-linux-gnu": enginePostgres,
		"PostgreSQL 11.2-YB-2.20.1.3-b0 on x86_64-pc-linux-gnu":            engineYugabyte,
		"CockroachDB CCL v23.2.4 (x86_64-pc-linux-gnu)":                    engineCockroach,
	} {
		if got := engineOf(version); got != want {
			t.Errorf("%s: %v", version, got)
		}
	}
}
