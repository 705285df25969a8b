package view

// DiskBytes is how much the store takes on disk; 0 once it is fenced or closed.
func (s *Store) DiskBytes() uint64 {
	done, err := s.use()
	if err != nil {
		return 0
	}
	defer done()
	return s.db.Metrics().DiskSpaceUsage()
}
