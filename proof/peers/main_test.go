package peers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
)

// serveEnv makes the test binary the server on the centrifuge library.
const serveEnv = "PEERS_TEST_SERVE"

func TestMain(m *testing.M) {
	if address := os.Getenv(serveEnv); address != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		history, err := strconv.Atoi(os.Args[1])
		if err == nil {
			err = ServeCentrifuge(ctx, address, history)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// testCentrifuge is the real server, in a process of its own.
func testCentrifuge(t *testing.T) *Centrifuge {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &Centrifuge{Server: func(address string, history int) *exec.Cmd {
		cmd := exec.Command(self, strconv.Itoa(history))
		cmd.Env = append(os.Environ(), serveEnv+"="+address)
		return cmd
	}}
}
