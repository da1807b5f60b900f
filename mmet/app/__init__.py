"""The page in the browser that searches galleries; `mmet.app.page` is the page, `mmet.app.searching` its logic.

python -m mmet.app --gallery people --model outputs/demo/model
"""
