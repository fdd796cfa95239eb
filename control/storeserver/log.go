package storeserver

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newZap returns a zap logger, which etcd wants, that writes to log what a
// human may have to act on: warnings and worse.
func newZap(log *slog.Logger) *zap.Logger { return zap.New(zapCore{log: log}) }

// zapCore is a zapcore.Core over a slog.Logger.
type zapCore struct{ log *slog.Logger }

// expected says of a message that etcd writes at every start of a store like
// ours, and that nobody can act on.
func expected(message string) bool {
	switch message {
	case "Running http and grpc server on single port. This is not recommended for production.":
		return true // etcd listens for neither: see serve
	case "Failed to detect schema version", "failed to update storage version",
		"Failed to detect storage schema version. Please wait till wal snapshot before upgrading cluster.":
		return true // the first log entry is not committed yet; etcd tries again until it is
	case "failed to update cluster version":
		return true // a stop came before etcd's book-keeping of the first start; it is done at the next
	}
	return false
}

func (c zapCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c zapCore) With(fields []zapcore.Field) zapcore.Core {
	return zapCore{log: c.log.With(attrs(fields)...)}
}

func (c zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !expected(e.Message) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write passes an entry on. After a Panic or Fatal entry zap ends the process
// itself; that is etcd's way of failing, and Error says so.
func (c zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	args := append(attrs(fields), "message", e.Message)
	msg := "etcd reports"
	if e.Level >= zapcore.DPanicLevel {
		msg = "etcd gives up; the store process ends"
	}
	c.log.Log(context.Background(), level, msg, args...)
	return nil
}

func (c zapCore) Sync() error { return nil }

// attrs turns zap's fields into slog's arguments.
func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	args := make([]any, 0, 2*len(fields)+2)
	for _, f := range fields {
		if v, ok := enc.Fields[f.Key]; ok {
			args = append(args, f.Key, v)
		}
	}
	return args
}
