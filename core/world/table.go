package world

import (
	"hash/maphash"
	"iter"
	"maps"
)

// table is a persistent map: set and del return a table that shares all but three
// small pieces with the old one. It is a trie of fixed depth over the hash of the key:
// 64 branches, 64 leaves each, so that a leaf of a table of 100,000 holds about 25
// entries and a change copies about 1.5 KiB.
type table[K comparable, V any] struct {
	root *[fan]*branch[K, V]
	size int
}

const fan = 64

type branch[K comparable, V any] [fan]map[K]V

// seed is the same for all tables of the process: tables are compared never, iterated only
// where order is made afterwards.
var seed = maphash.MakeSeed()

func place[K comparable](k K) (int, int) {
	h := maphash.Comparable(seed, k)
	return int(h % fan), int(h / fan % fan)
}

func (t table[K, V]) get(k K) (v V, ok bool) {
	if t.root == nil {
		return v, false
	}
	i, j := place(k)
	if t.root[i] == nil {
		return v, false
	}
	v, ok = t.root[i][j][k]
	return v, ok
}

func (t table[K, V]) set(k K, v V) table[K, V] {
	leaf, put := t.fork(k)
	if _, ok := leaf[k]; !ok {
		put.size++
	}
	leaf[k] = v
	return put
}

func (t table[K, V]) del(k K) table[K, V] {
	if _, ok := t.get(k); !ok {
		return t
	}
	leaf, put := t.fork(k)
	delete(leaf, k)
	put.size--
	return put
}

// fork returns a table whose leaf for k is a copy of its own, and that leaf.
func (t table[K, V]) fork(k K) (map[K]V, table[K, V]) {
	i, j := place(k)
	root := new([fan]*branch[K, V])
	if t.root != nil {
		*root = *t.root
	}
	b := new(branch[K, V])
	if root[i] != nil {
		*b = *root[i]
	}
	leaf := maps.Clone(b[j])
	if leaf == nil {
		leaf = make(map[K]V, 1)
	}
	b[j] = leaf
	root[i] = b
	return leaf, table[K, V]{root, t.size}
}

// all yields the entries in no order.
func (t table[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if t.root == nil {
			return
		}
		for _, b := range t.root {
			if b == nil {
				continue
			}
			for _, leaf := range b {
				for k, v := range leaf {
					if !yield(k, v) {
						return
					}
				}
			}
		}
	}
}
