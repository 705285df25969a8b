package overload

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestOf(t *testing.T) {
	for method, want := range map[string]Class{
		"Send": Send, "Hello": Resume, "SignIn": Resume, "Refresh": Resume, "ListRooms": Resume,
		"MarkRead": Receipt, "List": History, "Find": Search, "Typing": Typing, "Wallet": Tab, "": Tab,
	} {
		if got := Of(method); got != want {
			t.Errorf("Of(%q) = %v, want %v", method, got, want)
		}
	}
	for method, c := range methods {
		if !c.Valid() {
			t.Errorf("%s has class %d", method, c)
		}
	}
}

func TestLower(t *testing.T) {
	for _, c := range []struct{ own, wish, want Class }{
		{Send, 0, Send}, {Send, Tab, Tab}, {History, Send, History}, {History, History, History},
		{Typing, 200, Typing}, {Resume, Receipt, Receipt},
	} {
		if got := Lower(c.own, c.wish); got != c.want {
			t.Errorf("Lower(%v, %v) = %v, want %v", c.own, c.wish, got, c.want)
		}
	}
}

func TestDeadline(t *testing.T) {
	for _, c := range []struct {
		class Class
		wish  time.Duration
		want  time.Duration
	}{
		{Send, 0, 10 * time.Second}, {Send, -1, 10 * time.Second}, {Send, time.Hour, time.Minute},
		{Send, 3 * time.Second, 3 * time.Second}, {Typing, 0, 2 * time.Second}, {Typing, time.Minute, 5 * time.Second},
		{99, 0, 10 * time.Second},
	} {
		if got := Deadline(c.class, c.wish); got != c.want {
			t.Errorf("Deadline(%v, %v) = %v, want %v", c.class, c.wish, got, c.want)
		}
	}
	for c := Send; c.Valid(); c++ {
		if d := deadlines[c]; d.standard <= 0 || d.most < d.standard || d.most > time.Minute {
			t.Errorf("%v: default %v, most %v", c, d.standard, d.most)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for c := Class(0); c < Classes+1; c++ {
		for _, waiting := range []int{-1, 0, 1, 10, 1 << 40} {
			for _, capacity := range []int{-1, 0, 1, 8} {
				for hash := uint64(0); hash < 50; hash++ {
					d := RetryAfter(c, waiting, capacity, hash)
					if d < MinRetryAfter || d > MaxRetryAfter {
						t.Fatalf("RetryAfter(%v, %d, %d, %d) = %v: out of bounds", c, waiting, capacity, hash, d)
					}
				}
			}
		}
	}
	if a, b := RetryAfter(Search, 0, 8, 1), RetryAfter(Search, 80, 8, 1); b <= a {
		t.Errorf("more waiting, but the hint went from %v to %v", a, b)
	}
	different := map[time.Duration]bool{}
	for hash := uint64(0); hash < 20; hash++ {
		different[RetryAfter(Tab, 0, 8, hash)] = true
	}
	if len(different) < 15 {
		t.Errorf("20 users got %d different hints: they will come back together", len(different))
	}
}

func TestAdmission(t *testing.T) {
	now := time.Unix(0, 0)
	type step struct {
		class Class
		done  bool
		want  bool
	}
	admit := func(c Class, n int, want bool) (s []step) {
		for range n {
			s = append(s, step{class: c, want: want})
		}
		return s
	}
	done := func(c Class, n int) (s []step) {
		for range n {
			s = append(s, step{class: c, done: true})
		}
		return s
	}
	join := func(parts ...[]step) (s []step) {
		for _, p := range parts {
			s = append(s, p...)
		}
		return s
	}
	limits := Limits{Total: 10, SendReserve: 4}
	limits.ByClass[Typing] = 2
	for name, steps := range map[string][]step{
		"others stop before the reserve":    join(admit(History, 6, true), admit(History, 1, false), admit(Send, 4, true), admit(Send, 1, false)),
		"sends may use everything":          join(admit(Send, 10, true), admit(Send, 1, false), admit(Resume, 1, false)),
		"sends beyond the reserve push out": join(admit(Send, 6, true), admit(Resume, 4, true), admit(Resume, 1, false)),
		"class bound":                       join(admit(Typing, 2, true), admit(Typing, 1, false), admit(Search, 1, true)),
		"places come back":                  join(admit(History, 6, true), admit(Resume, 1, false), done(History, 1), admit(Resume, 1, true), admit(Resume, 1, false)),
		"no class is a tab":                 join(admit(0, 6, true), admit(99, 1, false), done(0, 1), admit(Tab, 1, true)),
	} {
		t.Run(name, func(t *testing.T) {
			a, err := NewAdmission(limits)
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range steps {
				if s.done {
					a.Done(s.class)
					continue
				}
				ok, after := a.Admit(s.class, uint64(i), now)
				if ok != s.want || ok != (after == 0) {
					t.Fatalf("step %d: %v: %v (after %v), want %v", i, s.class, ok, after, s.want)
				}
				if !ok && (after < MinRetryAfter || after > MaxRetryAfter) {
					t.Fatalf("step %d: hint %v", i, after)
				}
			}
		})
	}
}

func TestAdmissionCounts(t *testing.T) {
	a, err := NewAdmission(Limits{Total: 2, SendReserve: 1})
	if err != nil {
		t.Fatal(err)
	}
	a.Admit(Search, 0, time.Time{})
	a.Admit(Search, 0, time.Time{})
	if a.InFlight(Search) != 1 || a.Refused(Search) != 1 {
		t.Errorf("in flight %d, refused %d, want 1 and 1", a.InFlight(Search), a.Refused(Search))
	}
	for _, bad := range []Limits{{Total: -1}, {Total: 5, SendReserve: 5}, {Total: 5, SendReserve: -1}} {
		if _, err := NewAdmission(bad); err == nil {
			t.Errorf("limits %+v were accepted", bad)
		}
	}
	if _, err := NewAdmission(Limits{}); err != nil {
		t.Errorf("zero limits: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Done without Admit went unnoticed")
		}
	}()
	a.Done(Receipt)
}

func TestSlotsServeNewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(1, 3)
		if err := s.Acquire(t.Context(), Resume, 0); err != nil {
			t.Fatal(err)
		}
		var order []int
		errs := make([]error, 5)
		for i := 1; i <= 4; i++ {
			go func() {
				errs[i] = s.Acquire(t.Context(), Resume, 0)
				if errs[i] == nil {
					order = append(order, i)
					s.Release()
				}
			}()
			synctest.Wait() // so that i is queued before i+1
		}
		// The queue holds three: 1 was turned away when 4 came.
		if !errors.Is(errs[1], ErrFull) {
			t.Fatalf("oldest waiter: %v, want ErrFull", errs[1])
		}
		var full *FullError
		if !errors.As(errs[1], &full) || full.RetryAfter < MinRetryAfter {
			t.Fatalf("refusal without a hint: %v", errs[1])
		}
		s.Release()
		synctest.Wait()
		if len(order) != 3 || order[0] != 4 || order[1] != 3 || order[2] != 2 {
			t.Fatalf("order %v, want [4 3 2]", order)
		}
		waiting, waited, turned := s.Stats()
		if waiting != 0 || waited != 4 || turned != 1 {
			t.Errorf("stats %d %d %d, want 0 4 1", waiting, waited, turned)
		}
	})
}

func TestSlotsGivingUpLosesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(1, 8)
		if err := s.Acquire(t.Context(), Resume, 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Acquire(ctx, Resume, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("waiter: %v", err)
		}
		if waiting, _, _ := s.Stats(); waiting != 0 {
			t.Fatalf("%d waiting after giving up", waiting)
		}
		s.Release()
		// Verdict and cancellation at the same instant, many times over.
		for range 200 {
			if err := s.Acquire(t.Context(), Resume, 0); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			got := make(chan error, 1)
			go func() { got <- s.Acquire(ctx, Resume, 0) }()
			synctest.Wait()
			go cancel()
			s.Release()
			if err := <-got; err == nil {
				s.Release()
			}
		}
		if err := s.Acquire(t.Context(), Resume, 0); err != nil {
			t.Fatalf("a slot was lost: %v", err)
		}
	})
}

func TestSlotsWithoutQueue(t *testing.T) {
	s := NewSlots(0, 0) // one slot at least
	if err := s.Acquire(t.Context(), Resume, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Acquire(t.Context(), Resume, 0); !errors.Is(err, ErrFull) {
		t.Fatalf("second: %v, want ErrFull", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Acquire(ended, Resume, 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("ended context: %v", err)
	}
}
