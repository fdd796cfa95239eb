// Package trust decides whom a process believes and proves who it is: it holds
// the process's own certificate and key, verifies the other side of every
// connection inside the mesh, and keeps what a restart needs in one sealed file.
//
// Its one idea: an identity is believed only on the word of its own trust
// domain. There is one verifier for each trust domain (Bundles), a leaf names
// its domain, and only that domain's roots may vouch for it; an authority that
// is stolen in one cluster can impersonate nobody in another.
//
// The parts: Bundles verifies; Source holds the current certificate (SVID) and
// Bundles, and ClientConfig and ServerConfig make TLS configurations that read
// it; Renewer keeps it fresh through a Signer; SealedFile and Snapshot carry it
// over a restart; Token is what a process that has none of this shows at first
// contact. Private keys are made here, live in memory and in sealed files, and
// have types that cannot be printed.
//
// It deliberately does not issue certificates (control/ca does), does not speak
// to the control plane (callers bring a Signer), and does not authorise: that a
// peer is who it says is no statement about what it may do.
//
// The first type to read is Bundles, then Source.
//
// References: X509-SVID and SPIFFE-ID are the SPIFFE standards of those names;
// RFC 5280 is the profile of X.509, RFC 8446 is TLS 1.3.
package trust
