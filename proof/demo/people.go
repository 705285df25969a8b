package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/bongsu-im/bongsu/client"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"golang.org/x/sync/errgroup"
)

// character is who a bot is.
type character struct{ name, language string }

// Those who speak Korean and those who speak English, each as often as the
// rooms need; further ones get a number.
var (
	koreans = []string{
		"김하린", "이도윤", "박서준", "최지우", "정민재", "강수아", "조은호", "윤채원", "장현우", "임소율",
		"한지호", "오유나", "서동현", "신예린", "권태민", "황가온", "안시우", "송다인", "류재원", "홍아라",
		"문정숙", "배상철", "백미경", "허진수", "남궁민", "심보라",
	}
	englishes = []string{
		"Maya Lindqvist", "Theo Okafor", "Priya Raman", "Jonas Weber", "Aoife Byrne", "Luca Moretti", "Hannah Osei",
		"Sam Whitlock", "Elena Popova", "Diego Fuentes", "Ruth Adeyemi", "Kit Larsen", "Noor Haddad", "Billie Tran",
	}
)

// cast names n bots, about two thirds of whom speak Korean.
func cast(n int) []character {
	out := make([]character, 0, n)
	var used = map[string]int{}
	for i := range n {
		names, language := koreans, "ko"
		if i%3 == 2 {
			names, language = englishes, "en"
		}
		k := used[language]
		used[language]++
		name := names[k%len(names)]
		if round := k / len(names); round > 0 {
			name = fmt.Sprintf("%s %d", name, round+1)
		}
		out = append(out, character{name, language})
	}
	return out
}

// bot is an account with a live socket and an outbox.
type bot struct {
	character
	login  string
	client *client.Client
	conn   *client.Conn
	outbox *client.Outbox
}

func (b *bot) id() string { return b.client.UserID() }

// close ends a bot's outbox and socket, in that order.
func (b *bot) close() {
	if b.outbox != nil {
		b.outbox.Close()
	}
	if b.conn != nil {
		b.conn.Close()
	}
	if b.client != nil {
		b.client.Close()
	}
}

// plug gives a bot a socket and an outbox.
func plug(ctx context.Context, b *bot, options client.OutboxOptions) {
	b.conn = b.client.Connect(ctx, client.ConnectOptions{Queue: -1, Backoff: quick, HandshakeTimeout: 3 * time.Second})
	b.outbox = client.NewOutbox(b.conn, client.NewMemoryStore(), options)
}

// quick spaces attempts so that a demo need not wait for a polite client.
var quick = client.Backoff{Base: 100 * time.Millisecond, Max: time.Second}

// signUpAtOnce bounds the accounts that are made at the same time: a password
// costs a tenth of a second of a processor on purpose.
const signUpAtOnce = 3

// password of all bots of a demo, kept beside its data.
func password(dir string) (string, error) {
	name := filepath.Join(dir, "bots.password")
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		b = []byte(rand.Text())
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("the bots' password: %w", err)
	}
	return string(b), nil
}

// crew makes accounts for all characters, or signs in to those that are there.
// progress is told how many are done. h carries requests; nil: each has its own.
func crew(ctx context.Context, baseURL string, h *http.Client, password string, characters []character, progress func(int)) ([]*bot, error) {
	bots := make([]*bot, len(characters))
	for i, c := range characters {
		bots[i] = &bot{character: c, login: fmt.Sprintf("demo-%03d", i+1)}
		if c.name == guideName {
			bots[i].login = guideLogin // the same however many bots there are
		}
	}
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(signUpAtOnce)
	for _, b := range bots {
		g.Go(func() (err error) {
			if b.client, err = client.New(client.Config{BaseURL: baseURL, HTTPClient: h}); err != nil {
				return err
			}
			if err := b.signUp(ctx, password); err != nil {
				return fmt.Errorf("sign up %s: %w", b.login, err)
			}
			progress(int(done.Add(1)))
			return nil
		})
	}
	return bots, g.Wait()
}

// signUp makes the account, however often the answer gets lost.
func (b *bot) signUp(ctx context.Context, password string) error {
	return insist(ctx, func(ctx context.Context) error {
		_, err := b.client.SignUp(ctx, &edgev1.SignUpRequest{Login: b.login, Password: password, DisplayName: b.name, DeviceName: "demo"})
		if isCode(err, connect.CodeAlreadyExists) {
			_, err = b.client.SignIn(ctx, b.login, password, "demo")
		}
		return err
	})
}

// insist does something that is safe to do again, until it is done or refused.
func insist(ctx context.Context, do func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		err := do(ctx)
		if !client.IsRetryable(err) || ctx.Err() != nil {
			return err
		}
		if !rest(ctx, max(client.RetryAfter(err), min(quick.Limit(attempt), time.Second))) {
			return err
		}
	}
}

// strangerFor is how long a new account may be unknown to a node.
const strangerFor = 5 * time.Second

// acquaint insists on something that names accounts which may be new: a node
// that follows can be two seconds behind, and says until then that there is no
// such account.
func acquaint(ctx context.Context, do func(context.Context) error) error {
	for end := time.Now().Add(strangerFor); ; {
		err := insist(ctx, do)
		if !isCode(err, connect.CodeNotFound) || time.Now().After(end) || !rest(ctx, 200*time.Millisecond) {
			return err
		}
	}
}

func isCode(err error, code connect.Code) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Code == code
}
