// Package filestore keeps the objects of a cluster in two sealed files, for a cluster that runs no etcd: a
// remote one, whose relay states its facts. Its one idea is that it speaks package store's words (keys,
// preconditions, positions, a watch without gaps), so that whoever follows a store follows this one by the same
// code, and a history has an epoch here as there.
//
// A write is on the disk when it is acknowledged. What is on the disk is authentic or is not used: a damaged tail
// begins another epoch, so that nobody takes what was lost for deleted.
//
// It deliberately has one writer, which is the process that opened it: a cluster with several replicas of its
// control plane needs a store. All objects are in memory.
//
// Read Store first.
package filestore
