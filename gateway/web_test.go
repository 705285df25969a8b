package gateway

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
)

func packed(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (w *world) get(method, path string, header map[string]string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequest(method, "http://bongsu.test"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, string(body)
}

func TestWebClient(t *testing.T) {
	files := fstest.MapFS{
		"index.html":          {Data: []byte("<!doctype html>home")},
		"sw.js":               {Data: []byte("// worker")},
		"assets/app-1a2b.js":  {Data: []byte("code()")},
		"assets/app-1a2b.css": {Data: []byte("a{}")},
	}
	files["assets/app-1a2b.js.gz"] = &fstest.MapFile{Data: packed(t, "code()")}
	w := newWorld(t, func(c *Config) { c.Web = Static(files) })
	const forever, never = "public, max-age=31536000, immutable", "no-cache"
	for path, want := range map[string]struct {
		status          int
		kind, cache, in string
	}{
		"/":                     {200, "text/html; charset=utf-8", never, "home"},
		"/index.html":           {200, "text/html; charset=utf-8", never, "home"},
		"/rooms/r123":           {200, "text/html; charset=utf-8", never, "home"},
		"/sw.js":                {200, "text/javascript; charset=utf-8", never, "worker"},
		"/assets/app-1a2b.js":   {200, "text/javascript; charset=utf-8", forever, "code()"},
		"/assets/app-1a2b.css":  {200, "text/css; charset=utf-8", forever, "a{}"},
		"/assets/app-old.js":    {404, "text/plain; charset=utf-8", "no-store", ""},
		"/assets/x":             {404, "text/plain; charset=utf-8", "no-store", ""},
		"/missing.png":          {404, "text/plain; charset=utf-8", "no-store", ""},
		"/%2e%2e/secret.txt":    {404, "text/plain; charset=utf-8", "no-store", ""},
		"/bongsu.edge.v9.X/Do":  {404, "text/plain; charset=utf-8", "no-store", ""},
		"/assets/":              {404, "text/plain; charset=utf-8", "no-store", ""},
		"/rooms/..%2f..%2fetc/": {200, "text/html; charset=utf-8", never, "home"},
	} {
		res, body := w.get("GET", path, nil)
		h := res.Header
		if res.StatusCode != want.status || h.Get("Content-Type") != want.kind || h.Get("Cache-Control") != want.cache || !strings.Contains(body, want.in) {
			t.Errorf("%s: %d %q %q %q", path, res.StatusCode, h.Get("Content-Type"), h.Get("Cache-Control"), body)
		}
		policy := h.Get("Content-Security-Policy")
		for _, must := range []string{"default-src 'self'", "frame-ancestors 'none'", "object-src 'none'", "base-uri 'none'", "connect-src 'self' ws://bongsu.test wss://bongsu.test;"} {
			if !strings.Contains(policy, must) {
				t.Errorf("%s: policy %q lacks %q", path, policy, must)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
			t.Errorf("%s: policy %q is not strict", path, policy)
		}
		for name, value := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "Access-Control-Allow-Origin": "",
		} {
			if h.Get(name) != value {
				t.Errorf("%s: %s is %q, want %q", path, name, h.Get(name), value)
			}
		}
		if h.Get("Permissions-Policy") == "" {
			t.Errorf("%s: no permissions policy", path)
		}
	}

	res, body := w.get("GET", "/assets/app-1a2b.js", map[string]string{"Accept-Encoding": "br, gzip;q=0.8"})
	if res.Header.Get("Content-Encoding") != "gzip" || body != string(packed(t, "code()")) || res.Header.Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("precompressed: %v", res.Header)
	}
	if res, _ := w.get("GET", "/assets/app-1a2b.js", map[string]string{"Accept-Encoding": "gzip;q=0"}); res.Header.Get("Content-Encoding") != "" {
		t.Error("gzip for who refuses it")
	}
	res, _ = w.get("GET", "/", nil)
	if again, _ := w.get("GET", "/", map[string]string{"If-None-Match": res.Header.Get("ETag")}); again.StatusCode != 304 {
		t.Errorf("unchanged: %d", again.StatusCode)
	}
	if res, _ := w.get("POST", "/", nil); res.StatusCode != 405 {
		t.Errorf("POST: %d", res.StatusCode)
	}
	if res, body := w.get("HEAD", "/", nil); res.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %d %q", res.StatusCode, body)
	}
}

func TestPolicyOfOddHosts(t *testing.T) {
	for _, host := range []string{"", "a b", "x; script-src *", "x'y", "a,b", strings.Repeat("h", 300)} {
		if p := contentPolicy(host); strings.Contains(p, "ws:") || strings.Contains(p, "script-src") {
			t.Errorf("host %q wrote %q", host, p)
		}
	}
	if p := contentPolicy("[::1]:8080"); !strings.Contains(p, "ws://[::1]:8080 wss://[::1]:8080") {
		t.Errorf("%q", p)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MetricsToken = "metrics-secret" })
	if res, _ := w.get("GET", "/healthz", nil); res.StatusCode != 200 {
		t.Errorf("healthz: %d", res.StatusCode)
	}
	if res, _ := w.get("GET", "/readyz", nil); res.StatusCode != 200 {
		t.Errorf("readyz: %d", res.StatusCode)
	}
	w.b.set(func() { w.b.ready = errors.New("shard 3 has no owner at /secret/path") })
	if res, body := w.get("GET", "/readyz", nil); res.StatusCode != 503 || strings.Contains(body, "secret") {
		t.Errorf("readyz: %d %q", res.StatusCode, body)
	}
	if res, _ := w.get("GET", "/healthz", nil); res.StatusCode != 200 {
		t.Errorf("healthz of a living process that is not ready: %d", res.StatusCode)
	}
	for header, want := range map[string]int{"": 401, "Bearer wrong": 401, "metrics-secret": 401, "Bearer metrics-secret": 200} {
		res, body := w.get("GET", "/metrics", map[string]string{"Authorization": header})
		if res.StatusCode != want || (want == 200) != strings.Contains(body, "bongsu_gateway_sessions") {
			t.Errorf("metrics with %q: %d", header, res.StatusCode)
		}
	}
	open := newWorld(t, nil)
	if res, body := open.get("GET", "/metrics", nil); res.StatusCode != 200 || !strings.Contains(body, "bongsu_gateway_requests_total") == (open.metric("bongsu_gateway_requests_total") > 0) {
		t.Errorf("metrics without a token: %d", res.StatusCode)
	}
	if res, _ := open.get("GET", "/rooms", nil); res.StatusCode != 404 {
		t.Errorf("without a web client: %d", res.StatusCode)
	}
}
