package client_test

import (
	"context"
	"fmt"
	"log"

	"github.com/bongsu-im/bongsu/client"
	"github.com/bongsu-im/bongsu/client/clienttest"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Two people: one sends through an outbox, the other follows the room.
func Example() {
	ctx := context.Background()
	server := clienttest.New()
	defer server.Close()
	config := client.Config{BaseURL: clienttest.BaseURL, HTTPClient: server.HTTPClient()}
	defer config.HTTPClient.CloseIdleConnections()

	people := map[string]*client.Client{}
	for _, login := range []string{"jimin", "seojun"} {
		c, err := client.New(config)
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		if _, err := c.SignUp(ctx, &edgev1.SignUpRequest{Login: login, Password: "correct horse"}); err != nil {
			log.Fatal(err)
		}
		people[login] = c
	}
	room, err := people["jimin"].OpenDirect(ctx, people["seojun"].UserID())
	if err != nil {
		log.Fatal(err)
	}

	sender := people["jimin"].Connect(ctx, client.ConnectOptions{})
	defer sender.Close()
	outbox := client.NewOutbox(sender, client.NewMemoryStore(), client.OutboxOptions{})
	defer outbox.Close()
	for _, text := range []string{"안녕하세요", "봉수가 올랐습니다"} {
		if _, err := outbox.Send(client.Draft{RoomID: room.RoomId, Text: text}); err != nil {
			log.Fatal(err)
		}
	}

	receiver := people["seojun"].Connect(ctx, client.ConnectOptions{})
	defer receiver.Close()
	for m, err := range receiver.Follow(ctx, room.RoomId, 0) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Seq, m.Text)
		if m.Seq == 2 {
			break
		}
	}
	// Output:
	// 1 안녕하세요
	// 2 봉수가 올랐습니다
}

// Errors of the server say what kind they are, and why.
func ExampleError() {
	ctx := context.Background()
	server := clienttest.New()
	defer server.Close()
	c, err := client.New(client.Config{BaseURL: clienttest.BaseURL, HTTPClient: server.HTTPClient()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	_, err = c.SignIn(ctx, "nobody", "wrong", "")
	fmt.Println(err)
	fmt.Println("may work later:", client.IsRetryable(err))
	// Output:
	// unauthenticated (wrong_credentials): refused by the fake
	// may work later: false
}
