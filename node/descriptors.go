package node

// maxSessions is the most sockets of people if nothing else is said.
const maxSessions = 20_000

// reservedDescriptors are the stores' and the peers': each Pebble keeps 512
// tables open and has its logs, manifests and compactions beside; every peer has
// a few connections.
const reservedDescriptors = 1500

// divideDescriptors says how many sessions and other connections people may
// have, so that the stores never find all descriptors taken: a store that
// cannot open a file is fenced, and who connects often enough could bring that
// about. A tenth of what is left is for connections that are no sessions.
func divideDescriptors(limit uint64, asked int) (sessions, connections int) {
	left := int(min(limit, 1<<30))
	left -= min(reservedDescriptors, left/2)
	connections = min(max(left/10, 16), 10_000)
	if asked <= 0 {
		asked = maxSessions
	}
	return max(min(asked, left-connections), 1), connections
}
