package client

import (
	"context"
	"time"

	"connectrpc.com/connect"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Session is what keeps an account signed in on a device. It is a secret: store
// it as one. The zero Session is signed in to nothing.
type Session struct {
	UserID       string    `json:"userId"`
	DeviceID     string    `json:"deviceId"`
	AccessToken  string    `json:"accessToken"`
	RefreshToken string    `json:"refreshToken"`
	ExpiresAt    time.Time `json:"expiresAt"`
}

func sessionOf(s *edgev1.Session) Session {
	return Session{
		UserID: s.GetUserId(), DeviceID: s.GetDeviceId(), AccessToken: s.GetAccessToken(),
		RefreshToken: s.GetRefreshToken(), ExpiresAt: time.UnixMilli(s.GetExpiresAt()),
	}
}

// SignUp makes an account and signs this client in. It is not idempotent: when
// its outcome is unknown, try SignIn before SignUp again.
func (c *Client) SignUp(ctx context.Context, r *edgev1.SignUpRequest) (Session, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	s, err := call(c, func(to stubs) (*edgev1.Session, error) { return unary(ctx, "", r, to.account.SignUp) })
	if err != nil {
		return Session{}, err
	}
	return c.install(sessionOf(s)), nil
}

// SignIn signs this client in.
func (c *Client) SignIn(ctx context.Context, login, password, deviceName string) (Session, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	r := &edgev1.SignInRequest{Login: login, Password: password, DeviceName: deviceName}
	s, err := call(c, func(to stubs) (*edgev1.Session, error) { return unary(ctx, "", r, to.account.SignIn) })
	if err != nil {
		return Session{}, err
	}
	return c.install(sessionOf(s)), nil
}

// Resume takes up a stored session without asking the server; an old access
// token is refreshed when it is first needed.
func (c *Client) Resume(s Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.ended = s, nil
}

// Session returns the current session.
func (c *Client) Session() Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// UserID returns the ID of the account that is signed in; empty if none is.
func (c *Client) UserID() string { return c.Session().UserID }

// Refresh renews the session now, whatever its age. Calls at the same time
// share one request.
func (c *Client) Refresh(ctx context.Context) error {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	_, err := c.renew(ctx, c.Session().AccessToken)
	return err
}

// install stores a new session, then uses it.
func (c *Client) install(s Session) Session {
	if c.cfg.OnSession != nil {
		if err := c.cfg.OnSession(s); err != nil {
			c.cfg.Logger.Error("could not store the session", "error", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.ended = s, nil
	return s
}

const (
	// refreshMargin before its end an access token is renewed.
	refreshMargin = 30 * time.Second
	// refreshPause between renewals by age alone: with a clock that is wrong by
	// more than a token's life every token looks old.
	refreshPause = time.Minute
)

// accessToken returns one that should hold for this call.
func (c *Client) accessToken(ctx context.Context) (string, error) {
	now := c.cfg.Clock.Now()
	c.mu.Lock()
	s, ended := c.session, c.ended
	old := !now.Before(s.ExpiresAt.Add(-refreshMargin)) && now.Sub(c.refreshedAt).Abs() >= refreshPause
	c.mu.Unlock()
	switch {
	case ended != nil:
		return "", ended
	case s.RefreshToken == "":
		return "", &Error{Code: connect.CodeUnauthenticated, Reason: ReasonSignedOut, Message: "no session: sign in first"}
	case !old:
		return s.AccessToken, nil
	}
	return c.renew(ctx, s.AccessToken)
}

// flight is one refresh that several callers wait for.
type flight struct {
	done  chan struct{}
	token string // set before done is closed
	err   error  // likewise
}

// renew returns a newer access token than stale, by joining or starting the one
// flight. The flight does not end with the caller that started it: the server
// may have rotated the token already.
func (c *Client) renew(ctx context.Context, stale string) (string, error) {
	c.mu.Lock()
	switch {
	case c.ended != nil:
		err := c.ended
		c.mu.Unlock()
		return "", err
	case c.session.AccessToken != stale:
		token := c.session.AccessToken
		c.mu.Unlock()
		return token, nil
	case c.closed:
		c.mu.Unlock()
		return "", &Error{Code: connect.CodeCanceled, Message: "the client is closed"}
	}
	f := c.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.flight = f
		c.wg.Add(1)
		go c.fly(context.WithoutCancel(ctx), f, c.session)
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return "", expired(ctx.Err(), ReasonNoAnswer)
	}
}

func (c *Client) fly(ctx context.Context, f *flight, old Session) {
	defer c.wg.Done()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	s, err := call(c, func(to stubs) (*edgev1.Session, error) {
		return unary(ctx, "", &edgev1.RefreshRequest{RefreshToken: old.RefreshToken}, to.account.Refresh)
	})
	if err == nil {
		fresh := sessionOf(s)
		f.token = fresh.AccessToken
		c.install(fresh)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refreshedAt = c.cfg.Clock.Now()
	if isUnauthenticated(err) {
		// Only this definite answer ends a session; an outage never does
		// (invariant 11).
		err = signedOut(err)
		c.ended = err
		c.cfg.Logger.Warn("the session has ended", "error", err)
	}
	f.err = err
	c.flight = nil
	close(f.done)
}

// signedOut keeps the server's reason in the chain and in the text.
func signedOut(err error) error {
	return &Error{Code: connect.CodeUnauthenticated, Reason: ReasonSignedOut, Message: err.Error(), cause: err}
}
