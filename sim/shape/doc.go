// Package shape is the mesh that a seed makes before anything happens in it: how many clusters, where and of which role,
// with how many replicas and proxies, and at what pace they live.
//
// Its one idea is that the costly shapes are rare and the cheap ones many: one seed in twenty has fifty clusters.
//
// It runs nothing. Read Shape.
package shape
