package demo

import (
	"bufio"
	"encoding/json"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeClient is a node that serves a page as the gateway does, and signs people
// up.
func fakeClient(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/readyz":
		case "/bongsu.edge.v1.AccountService/SignUp":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"userId":"u-ann","accessToken":"secret"}`)
		default:
			w.Header().Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'")
			w.Header().Set("X-Frame-Options", "DENY")
			_, _ = io.WriteString(w, "the client, asked for as "+r.Host)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// pageOf is a page before a front with one fake node, and no fleet.
func pageOf(t *testing.T) (*Demo, *page) {
	t.Helper()
	node := fakeClient(t)
	d := &Demo{
		cfg: Config{Listen: "127.0.0.1:0", Out: io.Discard}, ledger: NewLedger(), meter: NewMeter(), fleet: &Fleet{},
		bots: map[string]bool{}, hosts: map[string][]*bot{}, phase: phase{Name: "talking"},
	}
	d.guide = &guide{visitors: make(chan visitor, 1)}
	var err error
	if d.director, err = NewDirector(d.ledger, d.meter, 40, rand.New(rand.NewPCG(1, 1))); err != nil {
		t.Fatal(err)
	}
	if d.front, err = NewFront("127.0.0.1:0", []Backend{{"n1", node.Listener.Addr().String()}}, FrontConfig{ProbeEvery: 5 * time.Millisecond, HoldFor: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if d.page, err = newPage(d, d.cfg.Listen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.page.close(); err != nil {
			t.Error(err)
		}
		if err := d.front.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, d.page
}

// ask makes a request and returns the answer and its body.
func ask(t *testing.T, method, target, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(b)
}

func TestPageServes(t *testing.T) {
	_, p := pageOf(t)
	base := strings.TrimSuffix(p.url(), "/demo/")
	response, body := ask(t, "GET", p.url(), "")
	if response.StatusCode != 200 || !strings.Contains(body, p.token) || response.Header.Get("Content-Security-Policy") != pagePolicy {
		t.Fatalf("the page: %d, %v", response.StatusCode, response.Header)
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="(/demo/[^"]+)"`).FindAllStringSubmatch(body, -1) {
		if r, b := ask(t, "GET", base+m[1], ""); r.StatusCode != 200 || b == "" {
			t.Errorf("%s: %d", m[1], r.StatusCode)
		}
	}
	// The client comes through, and may be shown in the page and nowhere else.
	r, b := ask(t, "GET", base+"/", "", "Sec-Fetch-Dest", "iframe")
	if b != "the client, asked for as "+strings.TrimPrefix(base, "http://") || r.Header.Get("X-Frame-Options") != "" ||
		r.Header.Get("Content-Security-Policy") != "default-src 'self'; frame-ancestors 'self'" {
		t.Errorf("the client: %q, %v", b, r.Header)
	}
	if r, _ := ask(t, "GET", base+"/", "", "Sec-Fetch-Dest", "document"); r.StatusCode != http.StatusFound || r.Header.Get("Location") != "/demo/" {
		t.Errorf("the bare address leads to %d %q", r.StatusCode, r.Header.Get("Location"))
	}
}

func TestButtonsArePressedFromThePageOnly(t *testing.T) {
	d, p := pageOf(t)
	base := strings.TrimSuffix(p.url(), "/demo/")
	press := func(what, form string, header ...string) int {
		t.Helper()
		r, _ := ask(t, "POST", p.url()+what, form, append([]string{"Content-Type", "application/x-www-form-urlencoded"}, header...)...)
		return r.StatusCode
	}
	for name, header := range map[string][]string{
		"no token":       nil,
		"a wrong token":  {"X-Demo-Token", p.token + "x"},
		"another origin": {"X-Demo-Token", p.token, "Origin", "http://example.com"},
		"another name":   {"X-Demo-Token", p.token, "Host", "demo.example.com:" + portOf(t, base)},
	} {
		for _, what := range []string{"act", "rate", "audit"} {
			if status := press(what, "do=kill&node=n1&per_second=1", header...); status != http.StatusForbidden {
				t.Errorf("%s, pressed with %s: %d", what, name, status)
			}
		}
	}
	if d.director.Rate() != 40 {
		t.Errorf("a button without the token worked: %v a second", d.director.Rate())
	}
	own := []string{"X-Demo-Token", p.token, "Origin", base}
	if status := press("rate", "per_second=7", own...); status != http.StatusNoContent || d.director.Rate() != 7 {
		t.Errorf("rate: %d, %v a second", status, d.director.Rate())
	}
	for _, bad := range []string{"per_second=0", "per_second=1000", "per_second=NaN", "per_second=x", ""} {
		if status := press("rate", bad, own...); status != http.StatusConflict || d.director.Rate() != 7 {
			t.Errorf("rate %q: %d, %v a second", bad, status, d.director.Rate())
		}
	}
	if status := press("act", "do=kill&node=n9", own...); status != http.StatusConflict {
		t.Errorf("a node that is not there: %d", status)
	}
	if r, _ := ask(t, "GET", p.url(), "", "Host", "localhost:"+portOf(t, base)); r.StatusCode != 200 {
		t.Errorf("by the name localhost: %d", r.StatusCode)
	}
	if r, _ := ask(t, "GET", base+"/v1/socket", "", "Host", "rebound.example.com"); r.StatusCode != http.StatusForbidden {
		t.Errorf("the client under a foreign name: %d", r.StatusCode)
	}
}

func portOf(t *testing.T, base string) string {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func TestPageIsToldWhatGoesOn(t *testing.T) {
	d, p := pageOf(t)
	d.ledger.Open("room", 0, "mina")
	d.ledger.Sent()
	d.ledger.Acknowledged(said(1, "hello"))
	d.meter.Fault(Kill, "n2", time.Now())
	response, err := http.Get(p.url() + "events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for range 2 {
		line, err := lines.ReadString('\n')
		data, ok := strings.CutPrefix(line, "data: ")
		var s state
		if err != nil || !ok || json.Unmarshal([]byte(data), &s) != nil {
			t.Fatalf("told %q, %v", line, err)
		}
		if s.Phase.Name != "talking" || s.Tally.Acknowledged != 1 || s.Rate != 40 || len(s.Figures.Faults) != 1 || s.Figures.Faults[0].Node != "n2" || len(s.Figures.Buckets) == 0 {
			t.Errorf("told %+v", s)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVisitorsAreNoticed(t *testing.T) {
	d, p := pageOf(t)
	base := strings.TrimSuffix(p.url(), "/demo/")
	for _, c := range []struct{ accept, language string }{{"ko-KR,ko;q=0.9", "ko"}, {"de-DE", "en"}} {
		_, body := ask(t, "POST", base+"/bongsu.edge.v1.AccountService/SignUp", "{}", "Accept-Language", c.accept)
		if body != `{"userId":"u-ann","accessToken":"secret"}` {
			t.Errorf("the answer was changed: %q", body)
		}
		select {
		case v := <-d.guide.visitors:
			if v != (visitor{"u-ann", c.language}) {
				t.Errorf("noticed %+v", v)
			}
		default:
			t.Error("nobody was noticed")
		}
	}
	d.bots["u-ann"] = true
	ask(t, "POST", base+"/bongsu.edge.v1.AccountService/SignUp", "{}")
	if len(d.guide.visitors) != 0 {
		t.Error("a bot is greeted as a visitor")
	}
}

// The page must work where there is no network, and say everything in both
// languages.
func TestPageFiles(t *testing.T) {
	texts := map[string]string{}
	err := fs.WalkDir(pageFiles, "page", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(pageFiles, name)
		texts[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range texts {
		for _, link := range regexp.MustCompile(`https?://[^\s"'()<>]+`).FindAllString(text, -1) {
			if link != "http://www.w3.org/2000/svg" {
				t.Errorf("%s names %s", name, link)
			}
		}
	}
	words := strings.Split(texts["page/words.js"], "export const en")
	if len(words) != 2 {
		t.Fatal("words.js has another shape")
	}
	keys := func(text string) (out []string) {
		for _, m := range regexp.MustCompile(`(?m)(?:^  |^    |, |\{ )(\w+): `).FindAllStringSubmatch(text, -1) {
			out = append(out, m[1])
		}
		slices.Sort(out)
		return out
	}
	ko, en := keys(words[0]), keys(words[1])
	if !slices.Equal(ko, en) || len(ko) < 60 {
		t.Errorf("Korean has %d words, English %d:\n%q\n%q", len(ko), len(en), ko, en)
	}
	for _, m := range regexp.MustCompile(`data-w="(\w+)"`).FindAllStringSubmatch(texts["page/index.html"], -1) {
		if !slices.Contains(ko, m[1]) {
			t.Errorf("nobody has words for %q", m[1])
		}
	}
}
