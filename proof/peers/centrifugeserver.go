package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/centrifugal/centrifuge"
)

// ServeCentrifuge serves a chat on the centrifuge library at a loopback address
// until ctx ends: whoever connects may subscribe and publish to everything, and
// each channel keeps its last history messages in memory. It is what one would
// write after reading the library's tutorial, with its defaults but for what is
// said here.
func ServeCentrifuge(ctx context.Context, address string, history int) error {
	node, err := centrifuge.New(centrifuge.Config{
		// Its default of 1 MiB closes sockets on a closed loop of large rooms:
		// the acknowledgement comes before the deliveries. Favours it.
		ClientQueueMaxSize: 16 << 20,
	})
	if err != nil {
		return fmt.Errorf("make a node: %w", err)
	}
	node.OnConnecting(func(_ context.Context, e centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: e.Token}}, nil
	})
	node.OnConnect(func(c *centrifuge.Client) {
		c.OnSubscribe(func(_ centrifuge.SubscribeEvent, answer centrifuge.SubscribeCallback) {
			answer(centrifuge.SubscribeReply{}, nil) // no presence, no positions: favours it
		})
		c.OnPublish(func(_ centrifuge.PublishEvent, answer centrifuge.PublishCallback) {
			answer(centrifuge.PublishReply{Options: centrifuge.PublishOptions{HistorySize: history, HistoryTTL: time.Hour}}, nil)
		})
		c.OnHistory(func(_ centrifuge.HistoryEvent, answer centrifuge.HistoryCallback) {
			answer(centrifuge.HistoryReply{}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return fmt.Errorf("run the node: %w", err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), node.Shutdown(context.WithoutCancel(ctx)))
	}
	mux := http.NewServeMux()
	mux.Handle(centrifugePath, centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
		err = fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, node.Shutdown(end), server.Shutdown(end))
}
