package node

import "testing"

func TestDivideDescriptors(t *testing.T) {
	for _, c := range []struct {
		limit                 uint64
		asked                 int
		sessions, connections int
	}{
		{20_000, 0, 16_650, 1850},
		{65_536, 0, 20_000, 6403},
		{65_536, 50_000, 50_000, 6403},
		{65_536, 100_000, 57_633, 6403},
		{1 << 40, 0, 20_000, 10_000},
		{1024, 0, 461, 51},
		{64, 0, 16, 16},
		{20_000, 10, 10, 1850},
	} {
		sessions, connections := divideDescriptors(c.limit, c.asked)
		if sessions != c.sessions || connections != c.connections {
			t.Errorf("of %d with %d asked for: %d sessions, %d connections, want %d and %d", c.limit, c.asked, sessions, connections, c.sessions, c.connections)
		}
		if kept := int64(c.limit) - int64(sessions+connections); kept < int64(min(reservedDescriptors, c.limit/2)) {
			t.Errorf("of %d only %d are left to the stores", c.limit, kept)
		}
	}
	if n := descriptors(); n < 64 {
		t.Errorf("%d descriptors", n)
	}
}
