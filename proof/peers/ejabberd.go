package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/template"
	"time"
)

// Where Debian puts ejabberd.
const (
	ejabberdUser   = "ejabberd"
	ejabberdSchema = "/usr/share/ejabberd/sql/pg.sql"
	// The machine's architecture is part of the folder's name.
	ejabberdHome = "/usr/lib/*-linux-gnu/ejabberd-*/ebin"
	erlangPgsql  = "/usr/lib/erlang/lib/p1_pgsql-*"
)

// Ejabberd is Debian's ejabberd with Debian's PostgreSQL: as lean as it can be
// made, or (Stock) with the modules and Erlang flags that the package brings.
type Ejabberd struct {
	// Stock is the second kind.
	Stock bool
	// SQLPool is how many connections it has to the database; 0 means 10,
	// which is its default.
	SQLPool int

	dir      string
	database *postgres
	server   *process
	address  string
	password string
	conns    []*xmppConn
	reading  sync.WaitGroup
}

// ejabberdConfig is the whole configuration. Each choice says whom it favours.
var ejabberdConfig = template.Must(template.New("ejabberd.yml").Parse(`
hosts: [` + xmppDomain + `]
loglevel: warning             # favours it: Debian logs more

listen:
  - port: {{.Port}}
    ip: "127.0.0.1"
    module: ejabberd_c2s      # plain TCP favours it: WebSocket would add framing
    starttls: false           # nobody has TLS here
    max_stanza_size: 262144
    shaper: none              # favours it: no limit of speed
    access: all

# Everything durable is in PostgreSQL: accounts, rosters, rooms, archives.
default_db: sql
sql_type: pgsql
sql_server: "127.0.0.1"
sql_port: {{.Database.Port}}
sql_database: ejabberd
sql_username: peers
sql_password: "{{.Database.Password}}"
sql_pool_size: {{.Pool}}
sql_prepared_statements: true # the default; favours it: no planning a message

auth_method: [sql]
auth_password_format: plain   # favours it: no SCRAM, and sign-in is outside the window

modules:
{{if .Stock}}
  # Those of Debian's /etc/ejabberd/ejabberd.yml, but for the ones that wait for
  # connections of other kinds (MQTT, STUN, HTTP, other servers).
  mod_adhoc: {}
  mod_admin_extra: {}
  mod_announce: {}
  mod_avatar: {}
  mod_blocking: {}
  mod_caps: {}
  mod_carboncopy: {}
  mod_client_state: {}
  mod_configure: {}
  mod_disco: {}
  mod_fail2ban: {}
  mod_last: {}
  mod_muc_admin: {}
  mod_ping: {}
  mod_pres_counter: {count: 5, interval: 60}
  mod_privacy: {}
  mod_private: {}
  mod_pubsub: {plugins: [flat, pep]}
  mod_push: {}
  mod_push_keepalive: {}
  mod_shared_roster: {}
  mod_sic: {}
  mod_stream_mgmt: {resend_on_timeout: if_offline}
  mod_vcard: {search: false}
  mod_vcard_xupdate: {}
  mod_version: {}
{{else}}
  # No others than those that the workloads need; Debian's package enables some
  # thirty more, whose hooks cost something a message. Favours it.
{{end}}
  mod_roster: {}
  mod_offline: {}
  mod_mam:                    # both sides keep every message, as in Bongsu
    default: always
    assume_mam_usage: true    # no copy into the offline store besides
  mod_muc:
    access: all
    access_create: all
    max_users: 5000
    default_room_options:
      mam: true               # the room keeps every message, once
      persistent: true
      presence_broadcast: []  # favours it: members are not told of each other
`))

// ejabberdFlags are those of Debian's ejabberdctl.
var ejabberdFlags = []string{"+K", "true", "+P", "250000", "-noshell", "-noinput"}

// leanFlags take Erlang's busy waiting away, which burns CPU time while it waits
// for PostgreSQL (favours it; few know it).
var leanFlags = []string{"+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"}

// Name implements Peer.
func (e *Ejabberd) Name() string {
	if e.Stock {
		return "ejabberd-debian"
	}
	return "ejabberd"
}

// Lacks implements Peer.
func (e *Ejabberd) Lacks() string {
	var packages []string
	lacks := func(pattern, name string) {
		if found, err := filepath.Glob(pattern); err != nil || len(found) == 0 {
			packages = append(packages, name)
		}
	}
	lacks(ejabberdHome, "ejabberd")
	lacks(erlangPgsql, "erlang-p1-pgsql")
	lacks(filepath.Join(postgresBin, "postgres"), "postgresql-15")
	if len(packages) == 0 {
		return ""
	}
	return "missing from this Debian: apt-get install -y --no-install-recommends " + strings.Join(packages, " ")
}

// findEjabberd returns its folder among Erlang's libraries, named with its
// version.
func findEjabberd() (string, error) {
	found, err := filepath.Glob(ejabberdHome)
	if err != nil || len(found) == 0 {
		return "", errors.Join(errors.New("ejabberd is not installed"), err)
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// Describe implements Peer.
func (e *Ejabberd) Describe() Description {
	version := "ejabberd"
	if home, err := findEjabberd(); err == nil {
		version = filepath.Base(home)
	}
	if out, err := exec.Command(filepath.Join(postgresBin, "postgres"), "--version").Output(); err == nil {
		version += ", " + strings.TrimSpace(string(out))
	}
	return Description{
		Version: version, Durable: true,
		Ack: "the partner's socket has the message with the ID of his archive: sender's and partner's archive are committed (in a room: its one archive)",
	}
}

// Start implements Peer.
func (e *Ejabberd) Start(ctx context.Context, dir string) (err error) {
	e.dir, e.password = dir, "peers"
	if e.database, err = startPostgres(ctx, dir); err != nil {
		return err
	}
	if _, err := e.database.query(ctx, "postgres", "create database ejabberd"); err != nil {
		return err
	}
	if err := e.database.load(ctx, "ejabberd", ejabberdSchema); err != nil {
		return err
	}
	home, err := makeFolder(dir, "ejabberd", ejabberdUser)
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	config := filepath.Join(home, "ejabberd.yml")
	if err := e.configure(config, port); err != nil {
		return err
	}
	program, err := findEjabberd()
	if err != nil {
		return err
	}
	// Without a node name it takes part in no cluster, and leaves no port mapper
	// behind.
	flags := slices.Clone(ejabberdFlags)
	if !e.Stock {
		flags = append(flags, leanFlags...)
	}
	cmd := exec.Command("erl", append(flags, "-mnesia", "dir", strconv.Quote(filepath.Join(home, "spool")), "-s", "ejabberd")...)
	cmd.Env = append(os.Environ(), "ERL_LIBS="+filepath.Dir(program), "HOME="+home, "EJABBERD_CONFIG_PATH="+config,
		"EJABBERD_LOG_PATH="+filepath.Join(home, "ejabberd.log"), "SPOOL_DIR="+filepath.Join(home, "spool"),
		"ERL_CRASH_DUMP_SECONDS=0")
	cmd.Dir = home // where it is, Erlang looks for code
	if e.server, err = startProcess("ejabberd", dir, ejabberdUser, cmd); err != nil {
		return err
	}
	e.address = loopback(port)
	return e.server.await(ctx, listens(e.address))
}

// configure writes the configuration into a folder that only the server's user
// may enter, for it holds the database's password.
func (e *Ejabberd) configure(path string, port int) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("configure ejabberd: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	pool := e.SQLPool
	if pool == 0 {
		pool = 10
	}
	type database struct {
		Port     int
		Password string
	}
	return ejabberdConfig.Execute(f, struct {
		Stock      bool
		Port, Pool int
		Database   database
	}{e.Stock, port, pool, database{e.database.port, e.database.password}})
}

// Processes implements Peer.
func (e *Ejabberd) Processes() []int { return []int{e.server.pid(), e.database.server.pid()} }

// Stop implements Peer.
func (e *Ejabberd) Stop() error {
	for _, c := range e.conns {
		c.close()
	}
	e.reading.Wait()
	err := errors.Join(e.server.stop(syscall.SIGTERM), e.database.stop())
	*e = Ejabberd{Stock: e.Stock, SQLPool: e.SQLPool}
	return err
}

func xmppUser(i int) string { return "u" + strconv.Itoa(i) }

// gather makes n accounts, as mod_register would leave them, and signs them in.
func (e *Ejabberd) gather(ctx context.Context, n int) error {
	insert := fmt.Sprintf("insert into users (username, password) select 'u' || i, '%s' from generate_series(0, %d) i; analyze users", e.password, n-1)
	if _, err := e.database.query(ctx, "ejabberd", insert); err != nil {
		return fmt.Errorf("make accounts: %w", err)
	}
	conns := make([]*xmppConn, n)
	err := each(ctx, n, 8, func(ctx context.Context, i int) (err error) {
		conns[i], err = dialXMPP(ctx, e.address, xmppUser(i), e.password)
		return err
	})
	e.conns = slices.DeleteFunc(conns, func(c *xmppConn) bool { return c == nil })
	return err
}

// Pairs implements Peer.
func (e *Ejabberd) Pairs(ctx context.Context, n int, arrived Arrived) ([]Sender, error) {
	if err := e.gather(ctx, 2*n); err != nil {
		return nil, err
	}
	var senders []Sender
	for i := range n {
		s := &xmppSender{conn: e.conns[2*i], kind: "chat", to: xmppUser(2*i+1) + "@" + xmppDomain + "/" + xmppResource}
		owner := xmppUser(2*i+1) + "@" + xmppDomain
		e.listen(e.conns[2*i], &s.waiting, func(m *element) error { return refusal(m, &s.waiting) })
		e.listen(e.conns[2*i+1], &s.waiting, func(m *element) error {
			number, text, err := archived(m, "chat", owner)
			if text == "" || err != nil {
				return err
			}
			arrived(i, []byte(text))
			s.waiting.end(number, nil)
			return nil
		})
		senders = append(senders, s)
	}
	return senders, nil
}

// Room implements Peer.
func (e *Ejabberd) Room(ctx context.Context, members, senders int, arrived Arrived) ([]Sender, error) {
	if err := e.gather(ctx, members); err != nil {
		return nil, err
	}
	const room = "peers@conference." + xmppDomain
	for i, c := range e.conns {
		// The subject ends what a room says to somebody who joins.
		if err := c.join(room, xmppUser(i)); err != nil {
			return nil, err
		}
	}
	var out []Sender
	for i, c := range e.conns {
		s := &xmppSender{conn: c, kind: "groupchat", to: room}
		own := room + "/" + xmppUser(i)
		e.listen(c, &s.waiting, func(m *element) error {
			if err := refusal(m, &s.waiting); err != nil {
				return err
			}
			number, text, err := archived(m, "groupchat", room)
			if text == "" || err != nil {
				return err
			}
			arrived(i, []byte(text))
			if m.attr("from") == own {
				s.waiting.end(number, nil)
			}
			return nil
		})
		if i < senders {
			out = append(out, s)
		}
	}
	return out, nil
}

// join enters a room and returns when that is done.
func (x *xmppConn) join(room, nick string) error {
	if err := x.conn.SetDeadline(time.Now().Add(setupTimeout)); err != nil {
		return err
	}
	if err := x.write("<presence to='" + room + "/" + nick + "'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>"); err != nil {
		return err
	}
	for {
		m, err := x.await("message")
		if err != nil {
			return fmt.Errorf("join the room: %w", err)
		}
		if m.child("subject") != nil {
			return x.conn.SetDeadline(time.Time{})
		}
	}
}

// listen reads a connection until it ends, which ends those who wait.
func (e *Ejabberd) listen(c *xmppConn, w *waiting, take func(*element) error) {
	e.reading.Go(func() {
		for {
			m, err := c.next()
			if err == nil {
				switch m.name {
				case "message":
					err = take(&m)
				case "stream:error":
					err = fmt.Errorf("the server said %v", m)
				}
			}
			if err != nil {
				w.fail(fmt.Errorf("the connection ended: %w", err))
				c.close()
				return
			}
		}
	})
}

// refusal tells a sender that his message came back as an error.
func refusal(m *element, w *waiting) error {
	if m.attr("type") != "error" {
		return nil
	}
	number, err := strconv.ParseUint(m.attr("id"), 10, 64)
	if err != nil {
		return fmt.Errorf("an error about a message of unknown ID %q", m.attr("id"))
	}
	w.end(number, fmt.Errorf("the server refused: %v", *m.child("error")))
	return nil
}

// archived takes number and text of a message out of it and demands that it
// carries the ID that it has in the archive of owner: only then it is stored.
// Without a body it is none, and text is empty.
func archived(m *element, kind, owner string) (number uint64, text string, err error) {
	b := m.child("body")
	if b == nil || m.attr("type") != kind {
		return 0, "", nil
	}
	for i := range m.children {
		if c := &m.children[i]; c.name == "stanza-id" && c.attr("by") == owner && c.attr("id") != "" {
			number, err := strconv.ParseUint(m.attr("id"), 10, 64)
			if err != nil {
				return 0, "", fmt.Errorf("a message of unknown ID %q", m.attr("id"))
			}
			return number, b.text, nil
		}
	}
	return 0, "", fmt.Errorf("a message was delivered but not archived by %s: %v", owner, *m)
}

// xmppSender sends to one partner or room.
type xmppSender struct {
	conn     *xmppConn
	kind, to string
	waiting  waiting
}

// Send implements Sender.
func (s *xmppSender) Send(ctx context.Context, text string) error {
	return s.waiting.ask(ctx, func(number uint64) error {
		return s.conn.write("<message to='" + s.to + "' type='" + s.kind + "' id='" + strconv.FormatUint(number, 10) + "'><body>" + escape(text) + "</body></message>")
	})
}

// Long implements Peer. Of the messages the first is sent; the others are copies
// of what the server has stored for it, each a second earlier.
func (e *Ejabberd) Long(ctx context.Context, messages, bytes int) (Fetch, error) {
	if err := e.gather(ctx, 2); err != nil {
		return nil, err
	}
	reader, partner := e.conns[0], e.conns[1]
	if err := reader.write("<message to='u1@" + xmppDomain + "/" + xmppResource + "' type='chat' id='1'><body>" + body("message ", bytes) + "</body></message>"); err != nil {
		return nil, err
	}
	if err := partner.conn.SetDeadline(time.Now().Add(setupTimeout)); err != nil {
		return nil, err
	}
	if _, err := partner.await("message"); err != nil {
		return nil, err
	}
	fill := fmt.Sprintf(`insert into archive (username, timestamp, peer, bare_peer, xml, txt, kind, nick)
		select username, timestamp - 1000000 * n::bigint, peer, bare_peer, xml, txt, kind, nick from archive, generate_series(1, %d) n`, messages-1)
	if _, err := e.database.query(ctx, "ejabberd", fill); err != nil {
		return nil, fmt.Errorf("fill the archive: %w", err)
	}
	// What autovacuum would have done in time.
	if _, err := e.database.query(ctx, "ejabberd", "vacuum analyze archive"); err != nil {
		return nil, err
	}
	if err := e.CheckStored(ctx, int64(messages)); err != nil {
		return nil, err
	}
	number := 0
	return func(ctx context.Context) (int, error) {
		number++
		return reader.page(ctx, fmt.Sprintf("page%d", number), "u1@"+xmppDomain)
	}, nil
}

// page reads the newest messages with somebody and says how many came.
func (x *xmppConn) page(ctx context.Context, id, with string) (n int, err error) {
	stop := context.AfterFunc(ctx, func() { _ = x.conn.SetDeadline(time.Unix(1, 0)) }) // reads under way end
	defer stop()
	err = x.write("<iq type='set' id='" + id + "'><query xmlns='urn:xmpp:mam:2' queryid='" + id + "'><x xmlns='jabber:x:data' type='submit'>" +
		"<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field><field var='with'><value>" + with + "</value></field></x>" +
		"<set xmlns='http://jabber.org/protocol/rsm'><max>" + strconv.Itoa(pageSize) + "</max><before/></set></query></iq>")
	if err != nil {
		return 0, err
	}
	for {
		e, err := x.next()
		if err != nil {
			return n, err
		}
		if r := e.child("result"); e.name == "message" && r != nil && r.attr("queryid") == id {
			n++
		}
		if e.name == "iq" && e.attr("id") == id {
			if e.attr("type") != "result" {
				return n, fmt.Errorf("the server said %v", e)
			}
			return n, nil
		}
	}
}

// CheckStored counts the archive of the database: each message of a pair stands
// in it at least twice, once a side. It is for checking that acknowledgements
// mean what they should.
func (e *Ejabberd) CheckStored(ctx context.Context, acknowledged int64) error {
	out, err := e.database.query(ctx, "ejabberd", "select count(*) from archive")
	if err != nil {
		return err
	}
	rows, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		return fmt.Errorf("count the archive: %w", err)
	}
	if rows < 2*acknowledged {
		return fmt.Errorf("%d messages were acknowledged, but the archives hold %d rows, want two each", acknowledged, rows)
	}
	return nil
}
