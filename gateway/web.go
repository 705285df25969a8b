package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// contentPolicy lets the page run and reach what came with it from the same
// origin and nothing else: no inline script, no inline style, no frames, no
// plug-ins. 'self' covers the socket too in current browsers; ws: and wss: of
// the same host are added by name for those where it does not.
func contentPolicy(host string) string {
	connect := "'self'"
	if plainHost(host) {
		connect += " ws://" + host + " wss://" + host
	}
	return "default-src 'self'; connect-src " + connect + "; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; " +
		"form-action 'self'; frame-ancestors 'none'"
}

// plainHost keeps a client's Host header from writing policy of its own.
func plainHost(host string) bool {
	if host == "" || len(host) > 255 {
		return false
	}
	for _, c := range []byte(host) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return true
}

// routes builds the public port's paths.
func (g *Gateway) routes() http.Handler {
	mux := http.NewServeMux()
	g.mountRPC(mux)
	mux.HandleFunc("/v1/socket", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", "GET")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		g.socket(w, r)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", g.readyz)
	if g.cfg.Gatherer != nil {
		mux.Handle("GET /metrics", g.guardMetrics(promhttp.HandlerFor(g.cfg.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})))
	}
	mux.HandleFunc("/", g.web)
	return mux
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client may be gone
}

// errDraining: the gateway is on its way out.
var errDraining = errors.New("draining")

// Ready returns nil if people should be sent here. It is what /readyz and the
// metric of the same name say.
func (g *Gateway) Ready() error {
	g.mu.Lock()
	draining := g.draining
	g.mu.Unlock()
	if draining {
		return errDraining
	}
	return g.backend.Ready()
}

func (g *Gateway) readyz(w http.ResponseWriter, _ *http.Request) {
	switch err := g.Ready(); {
	case err == nil:
		plain(w, http.StatusOK, "ready\n")
	case errors.Is(err, errDraining):
		plain(w, http.StatusServiceUnavailable, "draining\n")
	default:
		g.log.Debug("not ready", "error", err)
		plain(w, http.StatusServiceUnavailable, "not ready\n")
	}
}

func (g *Gateway) guardMetrics(h http.Handler) http.Handler {
	if g.cfg.MetricsToken == "" {
		return h
	}
	want := sha256.Sum256([]byte(g.cfg.MetricsToken))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(token))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			plain(w, http.StatusUnauthorized, "metrics need their token\n")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// web serves the browser client with headers that a page of ours needs and an
// attacker's would hate.
func (g *Gateway) web(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentPolicy(r.Host))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY") // for browsers older than frame-ancestors
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	// An unknown method of a service is not a page.
	if g.cfg.Web == nil || strings.HasPrefix(r.URL.Path, "/bongsu.") {
		plain(w, http.StatusNotFound, "not found\n")
		return
	}
	g.cfg.Web.ServeHTTP(w, r)
}

// Static serves a built web client for Config.Web: files under assets/ (whose
// names carry a hash) for ever, everything else only as long as it is unchanged;
// a .gz beside a file is sent to who accepts it; a path without an extension
// that names no file is a page of the client, so index.html.
func Static(files fs.FS) http.Handler { return static{files} }

type static struct{ files fs.FS }

func (s static) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		plain(w, http.StatusMethodNotAllowed, "method not allowed\n")
		return
	}
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	if name == "" {
		name = "index.html"
	}
	data, err := s.read(name)
	if err != nil && path.Ext(name) == "" && !strings.HasPrefix(name+"/", "assets/") {
		name = "index.html"
		data, err = s.read(name)
	}
	if err != nil {
		plain(w, http.StatusNotFound, "not found\n")
		return
	}
	h := w.Header()
	h.Set("Vary", "Accept-Encoding")
	if strings.HasPrefix(name, "assets/") {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	if t := contentType(name); t != "" {
		h.Set("Content-Type", t)
	}
	if headerHasEncoding(r.Header, "gzip") {
		if packed, err := s.read(name + ".gz"); err == nil {
			h.Set("Content-Encoding", "gzip")
			data = packed
		}
	}
	sum := sha256.Sum256(data)
	h.Set("ETag", `"`+hex.EncodeToString(sum[:12])+`"`)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
}

// read returns a regular file; a folder has no listing here.
func (s static) read(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrNotExist
	}
	info, err := fs.Stat(s.files, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	return fs.ReadFile(s.files, name)
}

// contentType does not depend on what the machine has installed.
func contentType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js", ".mjs":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".json", ".map":
		return "application/json"
	case ".webmanifest":
		return "application/manifest+json"
	case ".svg":
		return "image/svg+xml"
	case ".png":
		return "image/png"
	case ".ico":
		return "image/x-icon"
	case ".woff2":
		return "font/woff2"
	case ".txt":
		return "text/plain; charset=utf-8"
	case ".wasm":
		return "application/wasm"
	default:
		return mime.TypeByExtension(ext)
	}
}

func headerHasEncoding(h http.Header, name string) bool {
	for _, line := range h.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(line, ",") {
			coding, params, _ := strings.Cut(part, ";")
			params = strings.ReplaceAll(params, " ", "")
			if strings.EqualFold(strings.TrimSpace(coding), name) && params != "q=0" && !strings.HasPrefix(params, "q=0.000") && params != "q=0.0" && params != "q=0.00" {
				return true
			}
		}
	}
	return false
}
