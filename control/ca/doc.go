// Package ca is a cluster's certificate authority: it issues short-lived
// certificates for the cluster's own trust domain, publishes the bundle that
// verifies them, and hands out the join tokens of first contact.
//
// Its one idea: a certificate says what attestation said, and nothing of what the
// request said. Sign takes from a request the public key and the proof that the
// asker holds its private half; the identity comes as an Attested, made by a
// redeemed token, by the certificate that is being renewed, or by another
// attestor.
//
// One self-signed root of a trust domain signs leaves directly. Replacing it is the
// state machine Rotation: publish both, issue from the new, drop the old, each step
// behind a gate.
//
// It deliberately does not speak to proxies (the control stream does), does not
// keep its state in a particular place (KeyStore, TokenStore), and does not decide
// who is trusted elsewhere (package trust does).
//
// The first type to read is CA, then JoinTokens and Rotation.
package ca
