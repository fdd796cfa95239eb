// Package catalog is every resource that the proxies of one simulated cluster can be told of, as roots of an engine.
//
// Its one idea is a number for each resource, in the order in which additions are sent (ir.Order), so that what a proxy
// holds is a slice and what it lacks a comparison. The functions behind are the product's.
//
// It does not decide who asks for what, nor how a change is cut into messages.
//
// Read Catalog first.
package catalog
