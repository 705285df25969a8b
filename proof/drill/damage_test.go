package drill

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
)

// Invariant 6 over the whole core: damage is told of, or nothing is missing.
// BONGSU_SEED replays a run, BONGSU_DAMAGE makes more of it.
func TestDamage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("BONGSU_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("BONGSU_SEED=%d", seed)
	positions, _ := strconv.Atoi(os.Getenv("BONGSU_DAMAGE"))
	r, err := Damage(context.Background(), DamageConfig{Seed: seed, Positions: positions})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d damages to %d acknowledged messages in %.1f s\n%s", r.Faults, r.Acknowledged, r.Seconds, r.Table())
	for _, d := range r.Details {
		t.Error(d)
	}
	exercised(t, r)
}

// exercised fails for a class of files or a way of meeting damage that the run
// did not come across: it would prove nothing about it.
func exercised(t *testing.T, r *DamageReport) {
	t.Helper()
	rows := map[DamageClass]map[DamageKind]DamageRow{}
	var all DamageRow
	for _, w := range r.Rows {
		if rows[w.DamageClass] == nil {
			rows[w.DamageClass] = map[DamageKind]DamageRow{}
		}
		rows[w.DamageClass][w.Kind] = w
		all.Rebuilt += w.Rebuilt
		all.ByClients += w.ByClients
	}
	for class, noticed := range map[DamageClass]bool{
		{"journal", "wal"}: true, {"journal", "table"}: true, {"journal", "manifest"}: true,
		{"journal", "marker"}: true, {"journal", "marks"}: true, {"journal", "options"}: false,
		{"view", "table"}: true, {"view", "manifest"}: true, {"view", "marker"}: false, {"view", "options"}: false,
		{"node", "identity"}: true,
	} {
		kinds := []DamageKind{FlipBit, Truncate, Empty, Delete}
		if class.Files == "marker" {
			kinds = []DamageKind{Delete} // names without content
		}
		said := 0
		for _, kind := range kinds {
			w := rows[class][kind]
			if w.Cases == 0 {
				t.Errorf("no %s of %s %s", kind, class.Store, class.Files)
			}
			said += w.Detected + w.Rebuilt + w.ByCheck
		}
		if noticed && said == 0 {
			t.Errorf("no damage to %s %s was ever noticed: it hits nothing that is in use", class.Store, class.Files)
		}
	}
	if all.Rebuilt == 0 || all.ByClients == 0 {
		t.Errorf("views rebuilt %d times, losses found by clients %d times: want both", all.Rebuilt, all.ByClients)
	}
}

// The judge itself must turn red: told of messages that never were, it may not
// call an undamaged folder whole.
func TestDamageDrillNoticesSilence(t *testing.T) {
	image, err := fillImage(t.Context(), 1, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	whole := damageCase{class: DamageClass{"view", "wal"}, kind: Delete, file: "data/nothing"}
	look := func() error {
		_, err := image.meet(t.Context(), whole, image.disk.Crash(1, 0))
		return err
	}
	if err := look(); err != nil {
		t.Fatalf("the undamaged folder: %v", err)
	}
	some := image.acked[len(image.acked)/2]
	for want, doctor := range map[string]func(*damageSend){
		"older than the marks":          func(s *damageSend) { s.clientID[0] ^= 1 },
		"is not called lost":            func(s *damageSend) { s.clientID[0] ^= 1; s.lastWord = true },
		"has other words":               func(s *damageSend) { s.text += "." },
		"moved":                         func(s *damageSend) { s.seq++ },
		"are there and are called lost": func(s *damageSend) { s.at = proto.CloneOf(s.at); s.at.Term += 1 << 30 },
	} {
		acked := image.acked
		told := *some.powerSend
		changed := damageSend{&told, some.at, false}
		doctor(&changed)
		image.acked = append([]damageSend{changed}, acked...)
		if err := look(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		image.acked = acked
	}
	image.state[0] = &edgev1.User{}
	if err := look(); err == nil || !strings.Contains(err.Error(), "lists") {
		t.Errorf("other lists than before: %v", err)
	}
}
