package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Error is what the server, or the way to it, answered.
type Error struct {
	// Code is the Connect code.
	Code connect.Code
	// Message is for people who read logs.
	Message string
	// Reason is a stable word such as "text_too_long"; empty if there is none.
	// Those made here and not by the server are the Reason constants.
	Reason string
	// Field is the JSON name of the request field at fault; empty if none is.
	Field string
	// RetryAfter is the server's hint; 0 means that there was none.
	RetryAfter time.Duration

	cause error
}

// Reasons that this package gives itself.
const (
	// ReasonNotConnected: no socket came up in time; nothing was sent.
	ReasonNotConnected = "not_connected"
	// ReasonConnectionLost: the socket went between request and answer; whether
	// the server acted is unknown.
	ReasonConnectionLost = "connection_lost"
	// ReasonNoAnswer: the deadline passed; whether the server acted is unknown.
	ReasonNoAnswer = "no_answer"
	// ReasonSignedOut: the server ended the session; sign in again.
	ReasonSignedOut = "signed_out"
	// ReasonBadAnswer: the answer does not fit the request.
	ReasonBadAnswer = "bad_answer"
)

// Error implements error.
func (e *Error) Error() string {
	s := e.Code.String()
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	if e.Field != "" {
		s += " " + e.Field
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(" (retry after %s)", e.RetryAfter)
	}
	return s
}

// Unwrap returns what went wrong below, if anything did.
func (e *Error) Unwrap() error { return e.cause }

// Is lets errors.Is compare with another *Error by the fields that are set in it.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && (t.Code == 0 || t.Code == e.Code) && (t.Reason == "" || t.Reason == e.Reason) &&
		(t.Field == "" || t.Field == e.Field)
}

// ErrSignedOut matches (errors.Is) every error by which a session has ended.
var ErrSignedOut = &Error{Code: connect.CodeUnauthenticated, Reason: ReasonSignedOut}

// IsRefusal tells whether err is the server's definite no: nothing changed, and
// the same request will be refused again.
func IsRefusal(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case connect.CodeInvalidArgument, connect.CodeUnauthenticated, connect.CodePermissionDenied,
		connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodeFailedPrecondition,
		connect.CodeOutOfRange, connect.CodeUnimplemented:
		return true
	case connect.CodeResourceExhausted:
		return e.RetryAfter == 0
	}
	return false
}

// IsRetryable tells whether the same request may succeed later. It does not say
// that the first one had no effect: retry only what is idempotent (Send with
// the same client ID is). Errors that do not come from the server or the way to
// it (a cancelled context, a closed outbox) are not retryable.
func IsRetryable(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code != connect.CodeCanceled && !IsRefusal(err)
}

// RetryAfter returns the hint that err carries, or 0.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// elsewhere tells whether err is about one server, so that another may do at once:
// it is starting, draining, or not reached. One that is too busy speaks for all.
func elsewhere(err error) bool {
	var e *Error
	return !errors.As(err, &e) || e.Code != connect.CodeResourceExhausted
}

// maxRetryAfter keeps an absurd hint from stopping a client for good.
const maxRetryAfter = 10 * time.Minute

func hint(seconds float64) time.Duration {
	if !(seconds > 0) {
		return 0
	}
	return time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second))
}

// fromFrame makes an *Error of the error frame of a socket.
func fromFrame(e *edgev1.Error) *Error {
	out := &Error{
		Code: connect.CodeUnknown, Message: e.GetMessage(), Reason: e.GetInfo().GetReason(),
		Field: e.GetInfo().GetField(), RetryAfter: hint(e.GetInfo().GetRetryAfterSeconds()),
	}
	var code connect.Code
	if code.UnmarshalText([]byte(e.GetCode())) == nil {
		out.Code = code
	}
	return out
}

// fromRPC makes an *Error of what connect returned. A deadline or a cancelled
// context of the caller is still found by errors.Is.
func fromRPC(err error) error {
	if err == nil {
		return nil
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return &Error{Code: connect.CodeUnavailable, Message: err.Error(), cause: err}
	}
	out := &Error{Code: ce.Code(), Message: ce.Message(), cause: ce.Unwrap()}
	if out.Code == connect.CodeCanceled && !errors.Is(err, context.Canceled) {
		// A connection that was reset while the request was written: nobody gave up.
		out.Code = connect.CodeUnavailable
	}
	for _, d := range ce.Details() {
		v, err := d.Value()
		if info, ok := v.(*edgev1.ErrorInfo); err == nil && ok {
			out.Reason, out.Field = info.GetReason(), info.GetField()
			out.RetryAfter = hint(info.GetRetryAfterSeconds())
		}
	}
	if out.RetryAfter == 0 {
		out.RetryAfter = headerHint(ce.Meta())
	}
	return out
}

func headerHint(h http.Header) time.Duration {
	seconds, err := strconv.ParseFloat(h.Get("Retry-After"), 64)
	if err != nil {
		return 0
	}
	return hint(seconds)
}

// expired is the error of a caller whose context ended, or whose time was over,
// while it waited.
func expired(cause error, reason string) error {
	code := connect.CodeDeadlineExceeded
	if errors.Is(cause, context.Canceled) {
		code = connect.CodeCanceled
	}
	return &Error{Code: code, Reason: reason, Message: "gave up waiting", cause: cause}
}
