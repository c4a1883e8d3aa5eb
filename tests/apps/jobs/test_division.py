"""Who works on which prompt."""

from apps.jobs.division import Round, divide


def test_one_process_takes_prompt_after_prompt():
    assert divide([0, 2, 5], 1, can_share=True) == [Round((0,)), Round((2,)), Round((5,))]


def test_whole_prompts_are_dealt_while_there_are_enough_and_the_rest_is_shared():
    assert divide([0, 1, 2, 3, 4], 2, can_share=True) == [
        Round((0, 1)),
        Round((2, 3)),
        Round((4,), is_shared=True),
    ]


def test_fewer_prompts_than_processes_are_all_shared():
    assert divide([7, 8], 3, can_share=True) == [
        Round((7,), is_shared=True),
        Round((8,), is_shared=True),
    ]


def test_what_cannot_be_shared_leaves_processes_idle_in_the_last_round():
    assert divide([0, 1, 2], 2, can_share=False) == [Round((0, 1)), Round((2,))]


def test_nothing_to_do():
    assert divide([], 4, can_share=True) == []
