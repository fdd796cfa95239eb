package trust

// EncodeSnapshot and DecodeSnapshot let the fuzz target reach the content of a
// snapshot without sealing and syncing a file for each try.
func EncodeSnapshot(s Snapshot) ([]byte, error)       { return encodeSnapshot(s) }
func DecodeSnapshot(payload []byte) (Snapshot, error) { return decodeSnapshot(payload) }
