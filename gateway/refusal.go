package gateway

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"connectrpc.com/connect"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	"github.com/bongsu-im/bongsu/overload"
)

// The codes of the public API, as words.
const (
	codeOK              = "ok" // in metrics
	codeInvalid         = "invalid_argument"
	codeUnauthenticated = "unauthenticated"
	codePermission      = "permission_denied"
	codeNotFound        = "not_found"
	codeAlreadyExists   = "already_exists"
	codeExhausted       = "resource_exhausted"
	codeUnavailable     = "unavailable"
	codeInternal        = "internal"
	codeDeadline        = "deadline_exceeded" // from the backend; clients hear unavailable
)

// refusal is a typed answer that is not success. It may be shown to clients:
// nothing of our insides is in it.
type refusal struct{ e *edgev1.Error }

func (r *refusal) Error() string {
	return r.e.GetCode() + ": " + r.e.GetMessage() + " (" + r.e.GetInfo().GetReason() + ")"
}

func refuse(code, reason, format string, args ...any) *refusal {
	return &refusal{&edgev1.Error{Code: code, Message: fmt.Sprintf(format, args...), Info: &edgev1.ErrorInfo{Reason: reason}}}
}

// invalid refuses one field of a request, by its JSON name.
func invalid(field, reason, format string, args ...any) *refusal {
	r := refuse(codeInvalid, reason, format, args...)
	r.e.Info.Field = field
	return r
}

func (r *refusal) after(d time.Duration) *refusal {
	r.e.Info.RetryAfterSeconds = d.Seconds()
	return r
}

func exhausted(reason string, after time.Duration, format string, args ...any) *refusal {
	return refuse(codeExhausted, reason, format, args...).after(after)
}

func unavailable(reason string, after time.Duration, format string, args ...any) *refusal {
	return refuse(codeUnavailable, reason, format, args...).after(after)
}

func overloaded(after time.Duration) *refusal {
	return exhausted("overloaded", after, "the service is busy; try again later")
}

// againSoon is the hint of a socket that is closing: nothing is to be waited for but
// the next socket.
const againSoon = 20 * time.Millisecond

// timedOut is what is said when the outcome is unknown: retrying is safe.
func timedOut() *refusal {
	return unavailable("timeout", overload.MinRetryAfter, "no answer in time; it may or may not have happened, trying again is safe")
}

// asError turns anything a method returned into what the client is told.
// Everything that is not a refusal is our fault and stays in our logs.
func (g *Gateway) asError(ctx context.Context, method string, err error) *edgev1.Error {
	var r *refusal
	if errors.As(err, &r) {
		return complete(r.e)
	}
	var full *overload.FullError
	if errors.As(err, &full) {
		return exhausted("sign_in_busy", full.RetryAfter, "too many people are signing in; try again later").e
	}
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return timedOut().e
	}
	g.log.Error("method failed", "method", method, "error", err)
	return internalFault().e
}

func internalFault() *refusal {
	return refuse(codeInternal, "internal", "something went wrong on our side")
}

// complete makes sure that an error from the backend has what clients rely on:
// a known code, a reason, and a hint where one is promised.
func complete(e *edgev1.Error) *edgev1.Error {
	if e.Info == nil {
		e.Info = &edgev1.ErrorInfo{}
	}
	if codeOf(e.Code) == 0 {
		e.Code = codeInternal
	}
	// Who names a reason for being full says whether waiting cures it: a room
	// with all its members does not empty by waiting, and has no hint.
	bare := e.Info.Reason == ""
	if bare {
		e.Info.Reason = e.Code
	}
	after := e.Info.RetryAfterSeconds
	if math.IsNaN(after) || after < 0 {
		e.Info.RetryAfterSeconds, after = 0, 0
	}
	if after == 0 && (e.Code == codeExhausted && bare || e.Code == codeUnavailable) {
		e.Info.RetryAfterSeconds = overload.MinRetryAfter.Seconds()
	}
	return e
}

// codeOf reads a Connect code's name; 0 for none.
func codeOf(name string) connect.Code {
	var c connect.Code
	if name == "" || c.UnmarshalText([]byte(name)) != nil || c.String() != name {
		return 0
	}
	return c
}

// connectError is the same refusal as Connect sends it, with the hint as a
// Retry-After header too.
func connectError(e *edgev1.Error) *connect.Error {
	out := connect.NewError(codeOf(e.Code), errors.New(e.Message))
	if detail, err := connect.NewErrorDetail(e.Info); err == nil { // fails only for invalid UTF-8
		out.AddDetail(detail)
	}
	if e.Info.RetryAfterSeconds > 0 && (e.Code == codeExhausted || e.Code == codeUnavailable) {
		seconds := min(max(math.Ceil(e.Info.RetryAfterSeconds), 1), overload.MaxRetryAfter.Seconds())
		out.Meta().Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	return out
}

func errorFrame(e *edgev1.Error) *edgev1.ServerFrame {
	return &edgev1.ServerFrame{Body: &edgev1.ServerFrame_Error{Error: complete(e)}}
}
