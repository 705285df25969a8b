package gateway

import (
	"context"
	"fmt"

	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

func (g *Gateway) find(ctx context.Context, who caller, r *edgev1.FindRequest) (*edgev1.FindResponse, error) {
	login, err := login("login", r.GetLogin())
	if err != nil {
		return nil, err
	}
	reply, err := g.query(ctx, &nodev1.Query{Actor: who.user.Bytes(), Kind: &nodev1.Query_Find{Find: &edgev1.FindRequest{Login: login}}})
	if err != nil {
		return nil, err
	}
	if reply.GetFind().GetUser() == nil {
		return nil, refuse(codeNotFound, "user_unknown", "nobody has this login")
	}
	return reply.GetFind(), nil
}

// people resolves accounts; all must exist. field is blamed if not.
func (g *Gateway) people(ctx context.Context, who caller, field string, users []id.ID) ([]*nodev1.People_Person, error) {
	if len(users) == 0 {
		return nil, nil
	}
	q := &nodev1.PeopleQuery{}
	for _, u := range users {
		q.UserIds = append(q.UserIds, u.Bytes())
	}
	reply, err := g.query(ctx, &nodev1.Query{Actor: who.user.Bytes(), Kind: &nodev1.Query_People{People: q}})
	if err != nil {
		return nil, err
	}
	found := reply.GetPeople().GetPeople()
	if len(found) != len(users) {
		return nil, fmt.Errorf("asked for %d people, got %d", len(users), len(found))
	}
	for i, p := range found {
		if p.GetUser().GetUserId() == "" {
			r := refuse(codeNotFound, "user_unknown", "there is no user %v", users[i])
			r.e.Info.Field = field
			return nil, r
		}
	}
	return found, nil
}

// invitable checks that all exist and none of them blocks the caller.
func (g *Gateway) invitable(ctx context.Context, who caller, users []id.ID) error {
	found, err := g.people(ctx, who, "userIds", users)
	if err != nil {
		return err
	}
	for i, p := range found {
		if p.GetBlocksActor() {
			r := refuse(codePermission, "blocked_by_invitee", "%v cannot be invited by you", users[i])
			r.e.Info.Field = "userIds"
			return r
		}
	}
	return nil
}

// other reads the ID of someone who is not the caller.
func other(who caller, field, text string) (id.ID, error) {
	u, err := userID(field, text)
	if err != nil {
		return id.ID{}, err
	}
	if u == who.user {
		return id.ID{}, invalid(field, "yourself", "that is you")
	}
	return u, nil
}

func (g *Gateway) addFriend(ctx context.Context, who caller, r *edgev1.AddFriendRequest) (*edgev1.AddFriendResponse, error) {
	friend, err := other(who, "userId", r.GetUserId())
	if err != nil {
		return nil, err
	}
	found, err := g.people(ctx, who, "userId", []id.ID{friend})
	if err != nil {
		return nil, err
	}
	_, _, err = g.do(ctx, &nodev1.Command{Actor: who.user.Bytes(), Kind: &nodev1.Command_AddFriend{AddFriend: &nodev1.AddFriend{
		UserId: who.user.Bytes(), FriendId: friend.Bytes(),
	}}})
	if err != nil {
		return nil, err
	}
	return &edgev1.AddFriendResponse{User: found[0].GetUser()}, nil
}

func (g *Gateway) removeFriend(ctx context.Context, who caller, r *edgev1.RemoveFriendRequest) (*edgev1.RemoveFriendResponse, error) {
	friend, err := other(who, "userId", r.GetUserId())
	if err != nil {
		return nil, err
	}
	_, _, err = g.do(ctx, &nodev1.Command{Actor: who.user.Bytes(), Kind: &nodev1.Command_RemoveFriend{RemoveFriend: &nodev1.RemoveFriend{
		UserId: who.user.Bytes(), FriendId: friend.Bytes(),
	}}})
	if err != nil {
		return nil, err
	}
	return &edgev1.RemoveFriendResponse{}, nil
}

func (g *Gateway) listFriends(ctx context.Context, who caller, _ *edgev1.ListFriendsRequest) (*edgev1.ListFriendsResponse, error) {
	reply, err := g.query(ctx, &nodev1.Query{Actor: who.user.Bytes(), Kind: &nodev1.Query_ListFriends{ListFriends: &edgev1.ListFriendsRequest{}}})
	if err != nil {
		return nil, err
	}
	if reply.GetListFriends() == nil {
		return &edgev1.ListFriendsResponse{}, nil
	}
	return reply.GetListFriends(), nil
}

func (g *Gateway) setBlock(ctx context.Context, who caller, userText string, blocked bool) error {
	o, err := other(who, "userId", userText)
	if err != nil {
		return err
	}
	if blocked {
		if _, err := g.people(ctx, who, "userId", []id.ID{o}); err != nil {
			return err
		}
	}
	_, _, err = g.do(ctx, &nodev1.Command{Actor: who.user.Bytes(), Kind: &nodev1.Command_SetBlock{SetBlock: &nodev1.SetBlock{
		UserId: who.user.Bytes(), OtherId: o.Bytes(), Blocked: blocked,
	}}})
	return err
}

func (g *Gateway) block(ctx context.Context, who caller, r *edgev1.BlockRequest) (*edgev1.BlockResponse, error) {
	if err := g.setBlock(ctx, who, r.GetUserId(), true); err != nil {
		return nil, err
	}
	return &edgev1.BlockResponse{}, nil
}

func (g *Gateway) unblock(ctx context.Context, who caller, r *edgev1.UnblockRequest) (*edgev1.UnblockResponse, error) {
	if err := g.setBlock(ctx, who, r.GetUserId(), false); err != nil {
		return nil, err
	}
	return &edgev1.UnblockResponse{}, nil
}
