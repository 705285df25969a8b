package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// probeCmd asks a running server how it is: for images without a shell, whose
// health check must be a program.
type probeCmd struct {
	At       string        `help:"What to ask; a path of its own, or /readyz." default:"http://127.0.0.1:8080/readyz" placeholder:"URL"`
	Timeout  time.Duration `help:"How long to wait for the answer." default:"2s"`
	Insecure bool          `help:"Accept any certificate: of a server that is asked by its address."`
}

// Run prints the answer. Anything but 200 is an error.
func (c *probeCmd) Run(ctx context.Context) error {
	u, err := url.Parse(c.At)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q is not like http://127.0.0.1:8080/readyz", c.At)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/readyz"
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", u, err)
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: c.Insecure}}
	answer, err := transport.RoundTrip(request) // a redirect is no health
	if err != nil {
		return fmt.Errorf("ask %s: %w", u, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	said := strings.TrimSpace(string(text))
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status + ": " + said)
	}
	fmt.Println(said)
	return nil
}
