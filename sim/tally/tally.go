package tally

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"
)

// Tally is a sum over seeds. It is not safe for concurrent use.
type Tally struct {
	// Pieces are the seeds that were run, sorted; no seed is in two.
	Pieces []Piece
	// Seeds is how many there were, Clusters and Proxies how many they had.
	Seeds, Clusters, Proxies int
	// Counts are of faults, alarms and repairs; Checked of what checkers looked at.
	Counts, Checked map[string]int
	// Made and Imported count facts by kind.
	Made, Imported map[string]int
	// Worst is the longest time after the last fault until everybody agreed, and WorstSeed which one that took.
	Worst     time.Duration
	WorstSeed uint64
	// Failing are the complaints of each seed that had any.
	Failing map[uint64][]string
	// Traces is the exclusive or of the digests of each seed's final states: equal where two builds played alike.
	Traces string
}

// Piece is a row of seeds that one build has run.
type Piece struct {
	Build       string
	First, Last uint64
}

// Run is one seed.
type Run struct {
	Seed              uint64
	Clusters, Proxies int
	Counts, Checked   map[string]int
	Made, Imported    map[string]int
	Converged         time.Duration
	Complaints        []string
	Trace             string
}

// New has seen nothing.
func New() *Tally {
	return &Tally{Counts: map[string]int{}, Checked: map[string]int{}, Made: map[string]int{}, Imported: map[string]int{}, Failing: map[uint64][]string{},
		Traces: hex.EncodeToString(make([]byte, sha256.Size))}
}

// Add counts a seed that a build has run. It must not be counted already.
func (t *Tally) Add(build string, r Run) error {
	one := New()
	one.Pieces, one.Seeds, one.Clusters, one.Proxies = []Piece{{build, r.Seed, r.Seed}}, 1, r.Clusters, r.Proxies
	one.Counts, one.Checked, one.Made, one.Imported = r.Counts, r.Checked, r.Made, r.Imported
	one.Worst, one.WorstSeed = r.Converged, r.Seed
	if len(r.Complaints) > 0 {
		one.Failing[r.Seed] = r.Complaints
	}
	sum := sha256.Sum256([]byte(r.Trace))
	one.Traces = hex.EncodeToString(sum[:])
	return t.Merge(one)
}

// Merge adds another sum, which stays as it is. An error says which seeds both have; nothing is added then.
func (t *Tally) Merge(o *Tally) error {
	pieces := slices.Concat(t.Pieces, o.Pieces)
	slices.SortFunc(pieces, func(a, b Piece) int { return cmp.Compare(a.First, b.First) })
	var joined []Piece
	for i, p := range pieces {
		if i > 0 && p.First <= pieces[i-1].Last {
			return fmt.Errorf("seeds %d to %d are counted twice", p.First, min(p.Last, pieces[i-1].Last))
		}
		if n := len(joined); n > 0 && joined[n-1].Build == p.Build && joined[n-1].Last+1 == p.First {
			joined[n-1].Last = p.Last
		} else {
			joined = append(joined, p)
		}
	}
	traces, err := xor(t.Traces, o.Traces)
	if err != nil {
		return err
	}
	t.Pieces, t.Traces = joined, traces
	t.Seeds, t.Clusters, t.Proxies = t.Seeds+o.Seeds, t.Clusters+o.Clusters, t.Proxies+o.Proxies
	add(t.Counts, o.Counts)
	add(t.Checked, o.Checked)
	add(t.Made, o.Made)
	add(t.Imported, o.Imported)
	maps.Copy(t.Failing, o.Failing)
	if o.Worst > t.Worst {
		t.Worst, t.WorstSeed = o.Worst, o.WorstSeed
	}
	return nil
}

func add(into, from map[string]int) {
	for k, n := range from {
		into[k] += n
	}
}

func xor(a, b string) (string, error) {
	x, err := hex.DecodeString(a)
	y, err2 := hex.DecodeString(b)
	if err != nil || err2 != nil || len(x) != sha256.Size || len(y) != sha256.Size {
		return "", fmt.Errorf("digests of traces %q and %q: want %d octets in hexadecimal", a, b, sha256.Size)
	}
	for i := range x {
		x[i] ^= y[i]
	}
	return hex.EncodeToString(x), nil
}

// Next is the first seed from one on that is in no piece.
func (t *Tally) Next(from uint64) uint64 {
	for _, p := range t.Pieces {
		if p.First <= from && from <= p.Last {
			from = p.Last + 1
		}
	}
	return from
}

// Load reads a sum; a file that is not there is an empty one.
func Load(file string) (*Tally, error) {
	t := New()
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, t)
	}
	if err != nil {
		return nil, fmt.Errorf("read the summary %s: %w", file, err)
	}
	return t, nil
}

// Save writes a sum, in place of what the file said before only when all is written.
func (t *Tally) Save(file string) error {
	raw, err := json.MarshalIndent(t, "", "\t")
	if err == nil {
		err = os.WriteFile(file+".new", append(raw, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return fmt.Errorf("write the summary %s: %w", file, err)
	}
	return nil
}
