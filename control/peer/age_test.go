package peer

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TestAgeOutlivesARestart: what a peer stated is as old after a restart as it was before, also when the cache is written anew
// without the peer having been heard; and nothing is called old before there was time to hear the peer.
func TestAgeOutlivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "us-east")
	heard := time.Now().Add(-time.Hour).Truncate(time.Second)
	cfg := FollowerConfig{Self: "eu-west", Peer: mesh.Cluster{Name: "us-east"}, Cache: path, Clock: clock.Real{}, Log: slog.New(slog.DiscardHandler)}
	empty := replica.NewPartition("us-east")
	s := newSaver(cfg, time.Time{}, cfg.Log)
	s.save(&replica.Saved{Stated: empty, InForce: empty}, &replica.Edit{})
	s.touch(heard)
	var written *replica.Saved
	s.write(t.Context(), &written)
	if got := lastHeard(path); !got.Equal(heard) {
		t.Fatalf("the cache says %v, want %v", got, heard)
	}

	f := NewFollower(cfg)
	if err := os.Remove(path); err != nil { // it is written anew
		t.Fatal(err)
	}
	f.saver.save(&replica.Saved{Stated: empty, InForce: empty}, &replica.Edit{})
	written = nil
	f.saver.write(t.Context(), &written)
	if got := lastHeard(path); !got.Equal(heard) {
		t.Errorf("written by one who has not heard the peer the cache says %v, want %v", got, heard)
	}

	f.began = time.Now()
	silent := replica.Status{Stale: true}
	again := replica.Status{Stale: true, LastFresh: f.began.Add(time.Minute)}
	for _, tt := range []struct {
		name  string
		state replica.Status
		after time.Duration
		want  time.Time
	}{
		{"at the start", silent, 0, time.Time{}},
		{"after the time of a lease", silent, replica.StaleAfter, heard},
		{"heard", replica.Status{LastFresh: f.began}, time.Hour, time.Time{}},
		{"lost again", again, time.Hour, again.LastFresh},
	} {
		if got := f.staleAt(tt.state, f.began.Add(tt.after)); !got.Equal(tt.want) {
			t.Errorf("%s: stale since %v, want %v", tt.name, got, tt.want)
		}
	}
}
