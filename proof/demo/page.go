package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed page
var pageFiles embed.FS

const (
	// stateEvery is how often a page is told what is going on; maxPages bounds
	// how many are told.
	stateEvery = 250 * time.Millisecond
	maxPages   = 32
	// maxAnswer bounds the answer to a sign-up that is looked into.
	maxAnswer  = 64 << 10
	pagePolicy = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

// page serves the demo's page at /demo/ and the nodes' own client and API, by
// the front, at everything else: one origin, so that the client can be shown in
// the page. It lets in nobody who comes under a name that is not its own, and
// no button is pressed without the token that only the page knows.
type page struct {
	demo     *Demo
	listener net.Listener
	server   *http.Server
	token    string
	index    *template.Template
	proxy    *httputil.ReverseProxy
	places   chan struct{}   // one token a page that is told
	ctx      context.Context // the page's own life, ended by close
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

func newPage(d *Demo, listen string) (*page, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("open the page: %w", err)
	}
	p := &page{demo: d, listener: l, token: rand.Text(), places: make(chan struct{}, maxPages)}
	if p.index, err = template.ParseFS(pageFiles, "page/index.html"); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	// The context is the page's own life, ended by close.
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.proxy = p.newProxy(d.front.Addr())
	quiet := log.New(io.Discard, "", 0) // browsers hang up all the time
	p.proxy.ErrorLog = quiet
	p.server = &http.Server{Handler: p.routes(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: quiet, BaseContext: func(net.Listener) context.Context { return p.ctx }}
	p.wg.Go(func() { _ = p.server.Serve(l) }) // ends by close
	return p, nil
}

func (p *page) close() error {
	p.cancel()
	err := p.server.Close()
	p.wg.Wait()
	return err
}

// url is where people find the page.
func (p *page) url() string {
	host, port, _ := net.SplitHostPort(p.demo.cfg.Listen)
	_, actual, _ := net.SplitHostPort(p.listener.Addr().String())
	if port == "0" || port == "" {
		port = actual
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + "/demo/"
}

func (p *page) routes() http.Handler {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // the folder is embedded under this very name
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /demo/{$}", p.serveIndex)
	mux.Handle("GET /demo/", http.StripPrefix("/demo/", pageHeaders(http.FileServerFS(files))))
	mux.HandleFunc("GET /demo/events", p.events)
	mux.HandleFunc("POST /demo/act", p.button(p.act))
	mux.HandleFunc("POST /demo/rate", p.button(p.rate))
	mux.HandleFunc("POST /demo/audit", p.button(p.audit))
	mux.Handle("/", http.HandlerFunc(p.client))
	return p.own(mux)
}

// own refuses requests that came under a foreign name: a page elsewhere could
// have its own name lead to this machine.
func (p *page) own(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.knows(r.Host) {
			http.Error(w, "this is not the name of the demo", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// knows tells whether a Host header names us: an address, localhost, or what
// the demo was told to listen on.
func (p *page) knows(hostport string) bool {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = hostport, "80"
	}
	_, own, _ := net.SplitHostPort(p.listener.Addr().String())
	told, _, _ := net.SplitHostPort(p.demo.cfg.Listen)
	host = strings.ToLower(strings.Trim(host, "[]"))
	return port == own && (host == "localhost" || host == strings.ToLower(told) || net.ParseIP(host) != nil)
}

func pageHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", pagePolicy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func (p *page) serveIndex(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	if err := p.index.Execute(&body, map[string]any{"Token": p.token, "Min": MinRate, "Max": MaxRate}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	pageHeaders(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(body.Bytes()) // the browser may be gone
	})).ServeHTTP(w, r)
}

// button lets a press through if it comes from our own page.
func (p *page) button(do func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if origin != "" && origin != "http://"+r.Host {
			http.Error(w, "pressed from another page", http.StatusForbidden)
			return
		}
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Demo-Token")), []byte(p.token)) != 1 {
			http.Error(w, "the token of this run is missing: load the page again", http.StatusForbidden)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		if err := do(w, r); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	}
}

func (p *page) act(w http.ResponseWriter, r *http.Request) error {
	if err := p.demo.act(r.FormValue("do"), r.FormValue("node")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (p *page) rate(w http.ResponseWriter, r *http.Request) error {
	n, err := strconv.ParseFloat(r.FormValue("per_second"), 64)
	if err != nil || !(n >= MinRate && n <= MaxRate) {
		return fmt.Errorf("want %d to %d messages a second", MinRate, MaxRate)
	}
	p.demo.director.SetRate(n)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (p *page) audit(w http.ResponseWriter, _ *http.Request) error {
	audits := p.demo.audit(p.ctx) // to its end, also if the page leaves
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(audits)
}

// events tells a page what is going on, until it leaves.
func (p *page) events(w http.ResponseWriter, r *http.Request) {
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	tick := time.NewTicker(stateEvery)
	defer tick.Stop()
	for {
		b, err := json.Marshal(p.demo.state(time.Now()))
		if err != nil {
			return
		}
		_ = out.SetWriteDeadline(time.Now().Add(10 * time.Second)) // not every writer has one
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// client passes all else on to a node.
func (p *page) client(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" && r.URL.RawQuery == "" && r.Header.Get("Sec-Fetch-Dest") == "document" {
		http.Redirect(w, r, "/demo/", http.StatusFound) // who opens the bare address wants to see it all
		return
	}
	p.proxy.ServeHTTP(w, r)
}

// newProxy passes requests on by the front, under the name that they came with,
// lets our own page show the client, and notes who comes.
func (p *page) newProxy(front string) *httputil.ReverseProxy {
	var dialer net.Dialer
	return &httputil.ReverseProxy{
		Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", front) },
			MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: 20 * time.Second, DisableCompression: true,
		},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: front})
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(r *http.Response) error {
			if policy := r.Header.Get("Content-Security-Policy"); policy != "" {
				r.Header.Set("Content-Security-Policy", strings.Replace(policy, "frame-ancestors 'none'", "frame-ancestors 'self'", 1))
			}
			r.Header.Del("X-Frame-Options")
			return p.noteVisitor(r)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			http.Error(w, "no node answered", http.StatusBadGateway)
		},
	}
}

// noteVisitor looks into the answers to sign-ups and sign-ins, so that the
// guide can greet who comes. It keeps nothing but the user's ID.
func (p *page) noteVisitor(r *http.Response) error {
	method := r.Request.URL.Path
	if r.StatusCode != http.StatusOK || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") ||
		(!strings.HasSuffix(method, ".AccountService/SignUp") && !strings.HasSuffix(method, ".AccountService/SignIn")) {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	rest := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), rest), rest}
	if err != nil {
		return err
	}
	var session struct{ UserID string }
	if json.Unmarshal(body, &session) != nil || session.UserID == "" {
		return nil // not an answer that we know
	}
	language := "en"
	if strings.HasPrefix(strings.ToLower(r.Request.Header.Get("Accept-Language")), "ko") {
		language = "ko"
	}
	p.demo.arrive(visitor{session.UserID, language})
	return nil
}
