package peer

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// Backend answers what comes through links: the shards of this node.
type Backend interface {
	Begin(cmd *nodev1.Command, deadline time.Time, done func(*nodev1.Reply, error))
	Query(ctx context.Context, q *nodev1.Query) (*nodev1.QueryReply, error)
}

// Feeder gives nodes without a replica what is applied here.
type Feeder interface {
	// Follow hands batches to send, in order, until stop is called. send does not
	// block; it returns false if it could not take the batch, and whoever sends
	// begins the next one with a gap.
	Follow(shard int, after uint64, send func(*nodev1.FeedBatch) bool) (stop func(), err error)
}

const (
	// maxFollows bounds what one link may follow: every shard, and again while it
	// moves.
	maxFollows = 8192
	// maxQueries bounds the queries of one link that are being answered.
	maxQueries = 256
	// mostDeadline bounds what a peer may ask for.
	mostDeadline = time.Minute
)

// Server answers links.
type Server struct {
	backend Backend
	feeder  Feeder // nil: nothing can be followed
	log     *slog.Logger
	times   Times
}

// NewServer returns a server; the zero value of times is safe.
func NewServer(backend Backend, feeder Feeder, log *slog.Logger, times Times) *Server {
	return &Server{backend: backend, feeder: feeder, log: log, times: times.withDefaults()}
}

// Serve answers one connection, whose other end has proven to be a node of this
// cluster, until it breaks or ctx ends. It closes the connection and returns
// when everything that it started is done.
func (s *Server) Serve(ctx context.Context, conn net.Conn, from string) {
	ctx, cancel := context.WithCancel(ctx)
	l := newLink(conn, s.times)
	var working sync.WaitGroup
	slots := make(chan struct{}, maxQueries)
	var stops []func()
	err := l.run(ctx, func(f *nodev1.PeerFrame) {
		deadline := time.Now().Add(min(time.Duration(f.GetDeadlineMs())*time.Millisecond, mostDeadline))
		frameID := f.GetId()
		switch b := f.GetBody().(type) {
		case *nodev1.PeerFrame_Command:
			working.Add(1)
			s.backend.Begin(b.Command, deadline, func(reply *nodev1.Reply, err error) {
				defer working.Done()
				out := &nodev1.PeerFrame{Id: frameID, Body: &nodev1.PeerFrame_Reply{Reply: reply}}
				if err != nil {
					out.Body = &nodev1.PeerFrame_Unknown{Unknown: err.Error()}
				}
				s.answer(l, out)
			})
		case *nodev1.PeerFrame_Query:
			select {
			case slots <- struct{}{}:
			default:
				s.answer(l, &nodev1.PeerFrame{Id: frameID, Body: &nodev1.PeerFrame_Unknown{Unknown: "too many queries at once"}})
				return
			}
			working.Go(func() {
				defer func() { <-slots }()
				qctx, end := context.WithDeadline(ctx, deadline)
				defer end()
				reply, err := s.backend.Query(qctx, b.Query)
				out := &nodev1.PeerFrame{Id: frameID, Body: &nodev1.PeerFrame_QueryReply{QueryReply: reply}}
				if err != nil {
					out.Body = &nodev1.PeerFrame_Unknown{Unknown: err.Error()}
				}
				s.answer(l, out)
			})
		case *nodev1.PeerFrame_Follow:
			if s.feeder == nil || len(stops) >= maxFollows {
				s.answer(l, &nodev1.PeerFrame{Id: frameID, Body: &nodev1.PeerFrame_Unknown{Unknown: "nothing can be followed here"}})
				return
			}
			stop, err := s.feeder.Follow(int(b.Follow.GetShard()), b.Follow.GetAfter(), func(batch *nodev1.FeedBatch) bool {
				err := l.put(&nodev1.PeerFrame{Id: frameID, Body: &nodev1.PeerFrame_Feed{Feed: batch}})
				return err == nil
			})
			if err != nil {
				s.answer(l, &nodev1.PeerFrame{Id: frameID, Body: &nodev1.PeerFrame_Unknown{Unknown: err.Error()}})
				return
			}
			stops = append(stops, stop)
		default:
			l.end(errors.New("peer: an answer to nothing"))
		}
	})
	cancel()
	for _, stop := range stops {
		stop()
	}
	working.Wait()
	s.log.Debug("peer link ended", "from", from, "reason", err)
}

// answer queues an answer. One that cannot be queued leaves the asker without:
// the link is ended, so that it need not wait for its deadline.
func (s *Server) answer(l *link, f *nodev1.PeerFrame) {
	if err := l.put(f); err != nil {
		l.end(err)
	}
}
