package demo

import (
	"context"
	"net"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/bongsu-im/bongsu/client"
)

func TestNewAccountsMayBeUnknownForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unknown := &client.Error{Code: connect.CodeNotFound, Reason: "user_unknown"}
		tries := 0
		err := acquaint(t.Context(), func(context.Context) error {
			if tries++; tries < 4 {
				return unknown
			}
			return nil
		})
		if err != nil || tries != 4 {
			t.Errorf("after %d tries: %v", tries, err)
		}
		began := time.Now()
		if err := acquaint(t.Context(), func(context.Context) error { return unknown }); !isCode(err, connect.CodeNotFound) || time.Since(began) < strangerFor {
			t.Errorf("one who never appears: %v after %s", err, time.Since(began))
		}
		began, tries = time.Now(), 0
		no := &client.Error{Code: connect.CodePermissionDenied}
		if err := acquaint(t.Context(), func(context.Context) error { tries++; return no }); !isCode(err, connect.CodePermissionDenied) || tries != 1 {
			t.Errorf("a refusal: %v after %d tries", err, tries)
		}
	})
}

func TestCast(t *testing.T) {
	names := map[string]bool{}
	languages := map[string]int{}
	for _, c := range cast(100) {
		if names[c.name] {
			t.Errorf("two are called %s", c.name)
		}
		names[c.name] = true
		languages[c.language]++
	}
	if languages["ko"] != 67 || languages["en"] != 33 {
		t.Errorf("languages: %v", languages)
	}
}

func TestFreeAddressesAreNoOutgoingOnes(t *testing.T) {
	for range 20 {
		address, err := freeAddr()
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(address)
		if n, _ := strconv.Atoi(port); err != nil || n < 20_000 || n >= 30_000 {
			t.Errorf("%s", address)
		}
	}
}
