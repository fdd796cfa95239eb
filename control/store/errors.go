package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errors that a caller may tell apart with errors.Is. All come wrapped in an
// *Error.
var (
	// ErrNotFound: the object is not there.
	ErrNotFound = errors.New("not found")
	// ErrExists: the object must not be there, and is. Error.Current is its
	// revision.
	ErrExists = errors.New("already exists")
	// ErrConflict: the object was written since. Error.Current is its revision.
	ErrConflict = errors.New("was changed meanwhile")
	// ErrTooLarge: a value above ValueBytesMax, or a batch above its bounds.
	ErrTooLarge = errors.New("too large")
	// ErrFull: the store has used the space it may use.
	ErrFull = errors.New("store is full")
	// ErrUnavailable: the store did not answer within Config.RequestTimeout. A
	// write that failed so may have been applied or may yet be: read before
	// writing again, or write with a precondition, which then reports
	// ErrConflict or ErrExists.
	ErrUnavailable = errors.New("store unavailable")
	// ErrRefused comes beside ErrUnavailable: store and client do not believe each other's certificates, which
	// waiting does not change.
	ErrRefused = errors.New("refused")
)

// An Error is what every call of Store returns when it fails: what was
// attempted, on which object, what kind of failure, and why.
type Error struct {
	// Op is "get", "list", "put", "delete", "batch", "epoch" or "watch".
	Op string
	// Key is zero when the call is not about one object.
	Key Key
	// Kind is one of the package's errors, or nil for a fault of the caller.
	Kind error
	// Current is the revision found, for ErrExists and ErrConflict.
	Current int64
	// Cause is what was reported below, or nil.
	Cause error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Key != (Key{}) {
		b.WriteString(" " + e.Key.String())
	}
	if e.Kind != nil {
		b.WriteString(": " + e.Kind.Error())
	}
	if e.Current != 0 {
		fmt.Fprintf(&b, " (at revision %d)", e.Current)
	}
	if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	return b.String()
}

// Unwrap makes errors.Is see both the kind and the cause.
func (e *Error) Unwrap() []error {
	var all []error
	for _, err := range []error{e.Kind, e.Cause} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}

// A StaleError comes with what was asked for: the store is away, and the answer is what was last heard of it.
// Who wants to write must not act on that.
type StaleError struct {
	// Revision is that of the answer, Heard when the store was last heard.
	Revision int64
	Heard    time.Time
	// Cause is why the store did not answer.
	Cause error
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("the store is away, and what is known is of revision %d: %v", e.Revision, e.Cause)
}

// Unwrap makes errors.Is see the cause.
func (e *StaleError) Unwrap() error { return e.Cause }

// Away reports whether a call failed because the store did not answer in the time that the call had.
func Away(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// fail turns what etcd's client returned into an *Error. ctx is the caller's,
// not the one with the call's deadline: a caller that gave up is told so, and is
// not told that the store is away.
func (s *Store) fail(ctx context.Context, op string, key Key, err error) error {
	e := &Error{Op: op, Key: key, Cause: err}
	// etcd's client hides its errors behind strings; this undoes it.
	switch plain := rpctypes.Error(err); {
	case ctx.Err() != nil:
		e.Cause = context.Cause(ctx)
	case errors.Is(plain, rpctypes.ErrNoSpace):
		e.Kind = ErrFull
		e.Cause = fmt.Errorf("%s: raise its quota, or delete objects and compact: %w", s.where, err)
	case errors.Is(plain, rpctypes.ErrRequestTooLarge):
		e.Kind = ErrTooLarge
	case isAway(err):
		e.Kind = ErrUnavailable
		e.Cause = fmt.Errorf("%s did not answer within %v; check that the store is running (%w)", s.where, s.cfg.RequestTimeout, s.reason(err))
	}
	return e
}

// isAway says whether err is about reaching the store, as opposed to what the
// store thinks of the call.
func isAway(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	code := status.Code(err)
	if ee, ok := errors.AsType[rpctypes.EtcdError](rpctypes.Error(err)); ok {
		code = ee.Code()
	}
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled
}

// reason is err, or why the store is away where that is known, or why the last attempt to connect failed when err only
// says that time ran out.
func (s *Store) reason(err error) error {
	if s.cfg.Away != nil {
		if why := s.cfg.Away(); why != nil {
			return why
		}
	}
	last := s.dialer.lastError()
	if last == nil {
		return err
	}
	return last
}
