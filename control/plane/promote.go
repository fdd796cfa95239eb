package plane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/isthmus-mesh/isthmus/control/filestore"
	"github.com/isthmus-mesh/isthmus/control/recall"
	"github.com/isthmus-mesh/isthmus/control/store"
	"github.com/isthmus-mesh/isthmus/core/replica"
	"github.com/isthmus-mesh/isthmus/internal/clock"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Promotion is a control plane started where a relay was, demotion a relay where a control plane with a store of its own was. What the
// one kept becomes the other's, whole; authority and caches are the same files. The history is another one then, and takes the
// former into account (replica.Lineage), so that peers hold nothing over.

// objectsFile is where a relay keeps its objects.
const objectsFile = "objects.sealed"

// formerly is added to the name of what a cluster kept before its role changed; it is kept for people, and not read.
const formerly = ".former"

func (p *Plane) filestoreConfig() filestore.Config {
	return filestore.Config{Path: p.cfg.path(objectsFile), Key: p.sealKey, Clock: p.clock, Log: p.log, Failpoints: p.cfg.Failpoints}
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// promote brings what a relay kept into the store. It may be interrupted anywhere and begins again; it returns when it is done.
func (p *Plane) promote(ctx context.Context) error {
	if there, err := exists(p.cfg.path(objectsFile)); !there || p.cfg.Remote {
		return err
	}
	files, err := filestore.Open(p.filestoreConfig())
	if err != nil {
		return err
	}
	defer files.Close()
	all, at := all(files)
	all, err = withLineage(all, at)
	if err != nil {
		return err
	}
	for {
		if err = p.adoptAll(ctx, all); err == nil {
			break
		}
		p.log.Warn("what the relay kept is not in the store yet; trying again", "error", err)
		if err := clock.Wait(ctx, p.clock, 200*time.Millisecond); err != nil {
			return err
		}
	}
	p.log.Warn("this cluster was remote and is primary now: its objects are in its store", "objects", len(all))
	return os.Rename(p.cfg.path(objectsFile), p.cfg.path(objectsFile)+formerly)
}

// adoptAll writes objects that are not there.
func (p *Plane) adoptAll(ctx context.Context, all []store.Object) error {
	for _, o := range all {
		pre := store.MustNotExist()
		if o.Key == recall.LineageKey {
			pre = store.Any()
		}
		if _, err := p.store.Put(ctx, o, pre); err != nil && !errors.Is(err, store.ErrExists) {
			return err
		}
	}
	return nil
}

// all is what files hold, and where their history is.
func all(files *filestore.Store) ([]store.Object, store.Position) {
	ctx := context.Background() // files wait for nothing
	objects, _, _ := files.List(ctx, store.Scope{})
	at, _ := files.Now(ctx)
	return objects, at
}

// withLineage adds the history at which objects were read to the lineage among them.
func withLineage(all []store.Object, at store.Position) ([]store.Object, error) {
	lineage := replica.Lineage{}
	epoch := mesh.Epoch{ID: at.Epoch}
	for _, o := range all {
		var err error
		switch {
		case o.Key == recall.LineageKey:
			var before replica.Lineage
			if before, err = recall.DecodeLineage(o.Value); err == nil {
				lineage = lineage.Union(before)
			}
		case o.Kind == kindEpoch && o.Name == at.Epoch:
			epoch.StartMillis, err = strconv.ParseInt(string(o.Value), 10, 64)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.Key, err)
		}
	}
	if epoch.StartMillis != 0 { // otherwise nobody was told of it
		lineage = lineage.Union(replica.Lineage{epoch: at.Revision})
	}
	value, err := recall.EncodeLineage(lineage)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(o store.Object) bool { return o.Key == recall.LineageKey })
	return append(all, store.Object{Key: recall.LineageKey, Value: value}), nil // last: it says that the rest is there
}

// demote makes the files of a relay from the store that a control plane kept here, whose process it runs meanwhile.
func (p *Plane) demote(ctx context.Context) error {
	kept, err := exists(p.cfg.path("store"))
	if err != nil || !kept || !p.cfg.Remote {
		return err
	}
	there, err := exists(p.cfg.path(objectsFile))
	if err == nil && !there {
		err = p.readStore(ctx)
	}
	if err != nil {
		return fmt.Errorf("take over what the control plane of this cluster stored: %w", err)
	}
	return os.Rename(p.cfg.path("store"), p.cfg.path("store"+formerly+"-"+strconv.FormatInt(p.clock.Now().UnixMilli(), 10)))
}

// demoteMax bounds the start of the former store's process and the reading.
const demoteMax = time.Minute

func (p *Plane) readStore(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, demoteMax)
	done := make(chan error, 1)
	go func() { done <- p.runStore(ctx) }()
	defer func() { stop(); <-done }()
	s, err := store.Open(store.Config{Endpoints: []string{"unix://" + p.cfg.StoreSocket()}, Log: p.log, Away: p.storeAway})
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		at, err := s.Now(ctx)
		var list []store.Object
		if err == nil {
			list, at.Revision, err = s.List(ctx, store.Scope{})
		}
		if err == nil {
			if list, err = withLineage(list, at); err != nil {
				return err
			}
			p.log.Warn("this cluster was primary and is remote now: its objects are in files", "objects", len(list))
			return filestore.Create(p.filestoreConfig(), list)
		}
		if err := clock.Wait(ctx, p.clock, 200*time.Millisecond); err != nil {
			return err
		}
	}
}
