package shard

import (
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
)

// reason is one refusal of this package; docs/errors.md lists them.
type reason struct {
	code, reason, message string
	retrySeconds          float64
}

// The refusals that come from a shard's condition, not from the rules.
var (
	queueFull     = reason{"resource_exhausted", "queue_full", "too many requests are waiting for this part of the service", 1}
	notOwner      = reason{"unavailable", "not_owner", "this part of the service is changing hands", 0.5}
	starting      = reason{"unavailable", "starting", "this part of the service is still starting", 1}
	draining      = reason{"unavailable", "draining", "this server is stopping; another will answer", 1}
	storeFenced   = reason{"unavailable", "store_fenced", "a disk of this server has failed; nothing acknowledged is lost", 30}
	damaged       = reason{"unavailable", "shard_damaged", "this part of the service is stopped until it has been repaired", 300}
	tooOld        = reason{"unavailable", "release_too_old", "this server runs an older release than the one that wrote what it holds", 30}
	diskFull      = reason{"unavailable", "disk_full", "the server's disk is nearly full", 60}
	timedOut      = reason{"deadline_exceeded", "deadline", "the deadline passed before anything was done", 0.5}
	tooLarge      = reason{"resource_exhausted", "record_too_large", "this would change too much at once", 0}
	panicked      = reason{"internal", "command_panicked", "a fault of ours; nothing was changed", 0}
	badShard      = reason{"invalid_argument", "bad_shard", "there is no such shard, or the request says nothing", 0}
	behind        = reason{"unavailable", "behind", "this server has not yet seen what you have", 1}
	badActor      = reason{"invalid_argument", "bad_id", "the asker's ID is malformed", 0}
	tooManyPeople = reason{"invalid_argument", "too_many_ids", "too many people or things in one request", 0}
	tooMany       = reason{"invalid_argument", "too_many_positions", "too many positions in one request", 0}
)

func (r reason) edge() *edgev1.Error {
	return &edgev1.Error{
		Code:    r.code,
		Message: r.message,
		Info:    &edgev1.ErrorInfo{Reason: r.reason, RetryAfterSeconds: r.retrySeconds},
	}
}

func refusal(r reason) *nodev1.Reply { return &nodev1.Reply{Error: r.edge()} }

func queryRefusal(r reason) *nodev1.QueryReply { return &nodev1.QueryReply{Error: r.edge()} }
