package storeserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/isthmus-mesh/isthmus/internal/failpoint"
)

// Defaults of Config's fields.
const (
	// DefaultQuotaBytes holds 250,000 objects of 1 KiB with their history. It
	// is also the size of the address space the database is mapped into.
	DefaultQuotaBytes = 512 << 20
	// DefaultSnapshotCount is low because each log entry since the last
	// snapshot stays in memory, and an entry may be as large as an object.
	DefaultSnapshotCount = 1000
	// DefaultHistoryKeep is how long a watcher may be away and still resume
	// without a full list.
	DefaultHistoryKeep = 5 * time.Minute
	// quotaBytesMin is what etcd needs to start and to compact.
	quotaBytesMin = 16 << 20
)

// Points of this package at which a test may make things go wrong.
const (
	// PointStart is before etcd opens its files.
	PointStart failpoint.Point = "storeserver.start"
	// PointReady is after etcd is ready and before anyone is told.
	PointReady failpoint.Point = "storeserver.ready"
)

// Failpoints lists the points of this package, for failpoint.New.
func Failpoints() []failpoint.Point { return []failpoint.Point{PointStart, PointReady} }

// Config says where a store lives and how much it may use.
type Config struct {
	// DataDir holds everything the store writes. It is made with mode 0700 if
	// it is missing, and refused if anyone but its owner can enter it.
	DataDir string
	// ClientSocket is the path of the Unix socket to serve on, mode 0600. Its
	// folder is made and refused as DataDir is. It may be longer than the 107
	// bytes a socket address holds; the file name alone may not.
	ClientSocket string
	// PeerSocket is the path of etcd's socket for other members, mode 0600.
	// Empty is none, which is enough: a store has one member.
	PeerSocket string
	// Name names the member in etcd's own files. Empty is "store".
	Name string
	// QuotaBytes bounds the database; writes beyond it are refused. 0 is
	// DefaultQuotaBytes.
	QuotaBytes int64
	// SnapshotCount is the number of log entries between snapshots. 0 is
	// DefaultSnapshotCount.
	SnapshotCount uint64
	// HistoryKeep is how long past revisions can be watched from; older ones
	// are compacted. 0 is DefaultHistoryKeep.
	HistoryKeep time.Duration
	// Cluster makes the store a member of a cluster of several, which clients reach over TLS at its Client
	// address; ClientSocket and PeerSocket are empty then. Nil is a store of one member.
	Cluster *Cluster
	// Ready is called once, when the store answers. It may be
	// nil. It must not block.
	Ready func()
	// Failpoints may be nil, and is in production.
	Failpoints *failpoint.Set
}

// withDefaults returns c with every zero field that has a default filled in.
func (c Config) withDefaults() Config {
	if c.Name == "" {
		c.Name = "store"
	}
	if c.QuotaBytes == 0 {
		c.QuotaBytes = DefaultQuotaBytes
	}
	if c.SnapshotCount == 0 {
		c.SnapshotCount = DefaultSnapshotCount
	}
	if c.HistoryKeep == 0 {
		c.HistoryKeep = DefaultHistoryKeep
	}
	if c.Ready == nil {
		c.Ready = func() {}
	}
	return c
}

// Validate reports all faults of c at once. Zero fields that have defaults are
// not faults.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.DataDir == "" {
		fault("dataDir: must be set")
	}
	switch {
	case c.Cluster == nil && c.ClientSocket == "":
		fault("clientSocket: must be set")
	case c.Cluster != nil && (c.ClientSocket != "" || c.PeerSocket != ""):
		fault("clientSocket, peerSocket: a member of a cluster is reached at cluster.client and cluster.peer: leave them out")
	case c.Cluster != nil:
		faults = append(faults, c.Cluster.faults(c.Name)...)
	}
	for _, s := range []struct{ field, path string }{{"clientSocket", c.ClientSocket}, {"peerSocket", c.PeerSocket}} {
		if name := filepath.Base(s.path); len(name) > socketNameMax {
			fault("%s: file name %q has %d bytes, at most %d fit a socket address", s.field, name, len(name), socketNameMax)
		}
	}
	if c.PeerSocket != "" && c.PeerSocket == c.ClientSocket {
		fault("peerSocket: %s is clientSocket too", c.PeerSocket)
	}
	if c.QuotaBytes < quotaBytesMin {
		fault("quotaBytes: %d is below %d", c.QuotaBytes, quotaBytesMin)
	}
	if c.HistoryKeep < time.Second {
		fault("historyKeep: %v is below 1s", c.HistoryKeep)
	}
	return errors.Join(faults...)
}

// ReadConfig reads the JSON file that `isthmus store --config` names. Field
// names are Config's with a small first letter, historyKeep is a duration as in
// "5m", and an unknown field is an error.
func ReadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read store configuration: %w", err)
	}
	var f struct {
		DataDir       string   `json:"dataDir"`
		ClientSocket  string   `json:"clientSocket"`
		PeerSocket    string   `json:"peerSocket"`
		Name          string   `json:"name"`
		QuotaBytes    int64    `json:"quotaBytes"`
		SnapshotCount uint64   `json:"snapshotCount"`
		HistoryKeep   string   `json:"historyKeep"`
		Cluster       *Cluster `json:"cluster"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return Config{}, fmt.Errorf("read store configuration %s: %w", path, err)
	}
	c := Config{
		DataDir: f.DataDir, ClientSocket: f.ClientSocket, PeerSocket: f.PeerSocket,
		Name: f.Name, QuotaBytes: f.QuotaBytes, SnapshotCount: f.SnapshotCount, Cluster: f.Cluster,
	}
	if f.HistoryKeep != "" {
		if c.HistoryKeep, err = time.ParseDuration(f.HistoryKeep); err != nil {
			return Config{}, fmt.Errorf("read store configuration %s: historyKeep: %w", path, err)
		}
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("store configuration %s: %w", path, err)
	}
	return c, nil
}
