package nets

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses inside the namespaces; nobody outside them sees these.
const (
	prefix     = "10.231.77."
	hubAddress = prefix + "254"
	publicPort = "8080"
	peerPort   = "7070"
)

func spaceAddress(i int) string { return prefix + strconv.Itoa(i+1) }

// space is a network namespace that an open file keeps alive.
type space struct{ file *os.File }

// newSpace makes a namespace with a loopback.
func newSpace() (*space, error) {
	s := &space{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		s.file, err = os.Open(threadSpace())
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.ip("link set lo up\n"); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

func threadSpace() string { return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()) }

// onThread runs f on a thread of its own and brings that back to the namespace
// it came from. Where it cannot be brought back the thread ends with f.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		before, err := os.Open(threadSpace())
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open our own namespace: %w", err)
			return
		}
		err = f()
		back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET)
		if back == nil {
			runtime.UnlockOSThread()
		}
		done <- errors.Join(err, back, before.Close())
	}()
	return <-done
}

// do runs f inside the namespace: sockets that it makes and processes that it
// starts belong there.
func (s *space) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// run runs a tool inside the namespace and gives it a script.
func (s *space) run(script, tool string, args ...string) (out string, err error) {
	err = s.do(func() error {
		cmd := exec.Command(tool, args...)
		cmd.Stdin = strings.NewReader(script)
		b, err := cmd.CombinedOutput()
		out = string(b)
		if err != nil {
			return fmt.Errorf("%s: %w: %s", tool, err, strings.TrimSpace(out))
		}
		return nil
	})
	return out, err
}

func (s *space) ip(script string) error {
	_, err := s.run(script, "ip", "-batch", "-")
	return err
}

// Supported tells why namespaces cannot be had here; nil if they can.
func Supported() error {
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("no namespaces without the tool: %w", err)
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("no namespaces: not root")
	}
	s, err := newSpace()
	if err != nil {
		return err
	}
	_, err = s.run(table, "nft", "-f", "-")
	return errors.Join(err, s.file.Close())
}

// Spaces joins n places in namespaces of their own; proxied pairs have proxies
// between them.
func Spaces(n int, proxied ...[2]int) (*Network, error) {
	hub, err := newSpace()
	if err != nil {
		return nil, err
	}
	w := walls{}
	joined := &Network{
		proxies: map[way]*Proxy{}, outside: hub.do,
		cuts: map[way]bool{}, slow: map[way]time.Duration{},
	}
	joined.end = func() error {
		errs := []error{hub.file.Close()}
		for _, s := range w.spaces {
			errs = append(errs, s.file.Close())
		}
		return errors.Join(errs...)
	}
	err = hub.ip("link add br0 type bridge forward_delay 0\naddr add " + hubAddress + "/24 dev br0\nlink set br0 up\n")
	for i := range n {
		if err == nil {
			err = w.join(hub, i)
		}
		if err == nil {
			address := spaceAddress(i)
			joined.places = append(joined.places, place{public: address + ":" + publicPort, peer: address + ":" + peerPort, in: w.spaces[i].do})
		}
	}
	for _, pair := range proxied {
		for _, way := range []way{{pair[0], pair[1]}, {pair[1], pair[0]}} {
			if err == nil {
				err = joined.addProxy(way, hubAddress+":0")
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, joined.Close())
	}
	joined.rules = &w
	return joined, nil
}

// walls are the namespaces of places, with the rules that drop packets in them.
type walls struct{ spaces []*space }

// table drops what comes from a blocked address, and counts it.
const table = `table ip drill {
	set blocked { type ipv4_addr; }
	chain arriving {
		type filter hook input priority 0; policy accept;
		ip saddr @blocked counter drop
	}
}
`

// join makes the namespace of a place and links it to the bridge.
func (w *walls) join(hub *space, i int) error {
	s, err := newSpace()
	if err != nil {
		return err
	}
	w.spaces = append(w.spaces, s)
	if err := hub.ip(fmt.Sprintf("link add port%d type veth peer name eth0 netns /proc/%d/fd/%d\nlink set port%d master br0 up\n",
		i, os.Getpid(), s.file.Fd(), i)); err != nil {
		return err
	}
	if err := s.ip("addr add " + spaceAddress(i) + "/24 dev eth0\nlink set eth0 up\n"); err != nil {
		return err
	}
	_, err = s.run(table, "nft", "-f", "-")
	return err
}

func (w *walls) block(at int, from []int) error {
	script := "flush set ip drill blocked\n"
	for _, f := range from {
		script += "add element ip drill blocked { " + spaceAddress(f) + " }\n"
	}
	_, err := w.spaces[at].run(script, "nft", "-f", "-")
	return err
}

var counted = regexp.MustCompile(`counter packets (\d+)`)

func (w *walls) dropped() (total int64, err error) {
	for _, s := range w.spaces {
		out, err := s.run("", "nft", "list", "chain", "ip", "drill", "arriving")
		if err != nil {
			return 0, err
		}
		m := counted.FindStringSubmatch(out)
		if m == nil {
			return 0, fmt.Errorf("nft shows no counter: %s", out)
		}
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}
