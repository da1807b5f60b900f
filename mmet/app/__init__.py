"""The page on which an operator searches galleries; `mmet.app.page` is the page, `mmet.app.searching` its logic.

python -m mmet.app --gallery people --model outputs/demo/model
"""
